"""How far the simulator can be trusted: the same requests on an engine and in the simulator, side by side.

A simulation needs the engine's step times. An emulated engine has them by definition; those of a real one are fitted to
its own steps (`calibrate`) right before and after the replay that is judged. From that replay itself comes only how
fast the machine was meanwhile, a factor and a constant (`at_speed_of`); errors of single steps are reported without it.
"""

from collections.abc import Mapping, Sequence
from statistics import linear_regression, median

import msgspec

from proserve_core.gain import GainTotals
from proserve_core.latency import LatencyModel
from proserve_core.latency.errors import error_stats
from proserve_core.latency.fit import StepSample, fit_latency
from proserve_core.latency.step_log import LoggedStep
from proserve_lab.judgement import ReplayReport
from proserve_lab.replay import ReplayRequest
from proserve_lab.simulation.run import Outcome
from proserve_lab.simulation.workload import SimulatedRequest

TOTAL = "total"


class Agreement(msgspec.Struct, frozen=True, kw_only=True):
    """TDG ratio of one class, run by run."""

    measured: list[float]
    simulated: list[float]
    difference_points: float
    """Median over the runs of measured minus simulated, in points of 100."""
    target_points: float
    within: bool


class StepErrors(msgspec.Struct, frozen=True, kw_only=True):
    """Times of the steps of the judged replays as predicted by the calibrations around them, against the measured."""

    steps: int
    mape: float
    """Mean absolute error relative to the measured time, as a ratio."""
    p95_s: float
    """95% of absolute errors are at most this."""
    bias: float
    """All predicted times together over all measured ones, minus 1: how much the machine's speed changed."""
    waited: float
    """Share of the time in which the engine's thread did not run: waiting, or other programs had the core."""


def calibrate(steps: Sequence[LoggedStep]) -> LatencyModel:
    """The latency model of an engine from its steps.

    The shape comes from the CPU time of the engine's thread, which other programs hardly disturb; then it is brought to
    the level of the wall clock.

    Raises:
        ValueError: too few steps.
    """
    model, _ = fit_latency([StepSample(step.work, step.cpu_s) for step in steps])
    return at_speed_of(model, steps)


def at_speed_of(model: LatencyModel, steps: Sequence[LoggedStep]) -> LatencyModel:
    """The model with all constants scaled by one factor and one more constant per step, as fits `steps` best.

    Least squares on the times themselves: `steps` together then take as long as they did, and long ones, which decide
    how a queue grows, are met best; a fit on relative errors finds the typical step and misses both. What the thread
    waits for is a constant per step, and the speed of a machine that others use too changes from minute to minute.
    """
    predicted = [model.step_s(step.work) for step in steps]
    measured = [step.wall_s for step in steps]
    factor, constant_s = linear_regression(predicted, measured)
    if constant_s < 0 or factor <= 0:
        factor, constant_s = sum(measured) / sum(predicted), 0.0
    scaled = {name: value * factor for name, value in msgspec.structs.asdict(model).items()}
    return LatencyModel(**scaled | {"host_s": scaled["host_s"] + constant_s})


def step_errors(replays: Sequence[tuple[LatencyModel, Sequence[LoggedStep]]]) -> StepErrors | None:
    """Errors of each replay's model on its steps; None without steps."""
    pairs = [(model.step_s(step.work), step.wall_s) for model, steps in replays for step in steps]
    stats = error_stats(pairs)
    if stats is None:
        return None
    wall_s = sum(measured_s for _, measured_s in pairs)
    return StepErrors(
        steps=stats.steps,
        mape=stats.mape,
        p95_s=stats.p95_s,
        bias=sum(predicted_s for predicted_s, _ in pairs) / wall_s - 1,
        waited=1 - sum(step.cpu_s for _, steps in replays for step in steps) / wall_s,
    )


def simulated_request(request: ReplayRequest, *, arrival_s: float, prefix: str = "") -> SimulatedRequest:
    """The request as the simulator takes it."""
    return SimulatedRequest(
        id=f"{prefix}{request.id}",
        terms=request.terms,
        arrival_s=arrival_s,
        prompt_tokens=request.prompt_tokens,
        output_tokens=request.output_tokens,
    )


def measured_gain(report: ReplayReport) -> dict[str, float]:
    """TDG ratio by class and in total, as the clients saw it."""
    return {name: part.tdg_ratio for name, part in report.classes.items()} | {TOTAL: report.total.tdg_ratio}


def simulated_gain(outcomes: Sequence[Outcome]) -> dict[str, float]:
    """The same of a simulation."""
    totals: dict[str, GainTotals] = {}
    for outcome in outcomes:
        for name in (outcome.request.terms.priority_class, TOTAL):
            totals.setdefault(name, GainTotals()).add(outcome.account)
    return {name: each.tdg_ratio for name, each in totals.items()}


def agreements(
    pairs: Sequence[tuple[Mapping[str, float], Mapping[str, float]]], *, target_points: float
) -> dict[str, Agreement]:
    """Measured and simulated gain of several runs, compared class by class."""
    found = {}
    for name in sorted(pairs[0][1], key=lambda each: (each == TOTAL, each)):
        measured = [run[name] for run, _ in pairs]
        simulated = [run[name] for _, run in pairs]
        difference = 100 * median(a - b for a, b in zip(measured, simulated, strict=True))
        found[name] = Agreement(
            measured=measured,
            simulated=simulated,
            difference_points=difference,
            target_points=target_points,
            within=abs(difference) <= target_points,
        )
    return found
