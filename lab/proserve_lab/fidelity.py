"""How far the simulator can be trusted: the same requests on an engine and in the simulator, side by side.

A simulation needs the engine's step times. An emulated engine has them by definition; those of a real one are fitted to
its own steps (`calibrate`) right before and after the replay that is judged. From that replay itself comes only how
fast the machine was meanwhile (`machine_speed`); errors of single steps are reported without it.
"""

from collections.abc import Mapping, Sequence
from statistics import fmean, stdev

import msgspec
import numpy as np

from proserve_core.clues import LengthClues
from proserve_core.gain import GainTotals
from proserve_core.latency import LatencyModel
from proserve_core.latency.errors import Stratum, error_stats, quantile, stratum_of
from proserve_core.latency.fit import StepSample, fit_latency
from proserve_core.latency.step_log import LoggedStep
from proserve_lab.judgement import ReplayReport
from proserve_lab.machine_speed import MachineSpeed
from proserve_lab.replay import ReplayRequest
from proserve_lab.simulation.run import Outcome
from proserve_lab.simulation.workload import SimulatedRequest

TOTAL = "total"


class Agreement(msgspec.Struct, frozen=True, kw_only=True):
    """TDG ratio of one class, run by run."""

    measured: list[float]
    simulated: list[float]
    difference_points: float
    """Mean over the runs of measured minus simulated, in points of 100."""
    standard_error_points: float | None
    """Of that mean, by how the runs differ; None for a single run."""
    target_points: float
    within: bool
    """The mean is."""


class StepErrors(msgspec.Struct, frozen=True, kw_only=True):
    """Times of the steps of the judged replays as predicted by the calibrations around them, against the measured."""

    steps: int
    mape: float
    """Mean absolute error relative to the measured time, as a ratio."""
    p95_s: float
    """95% of absolute errors are at most this."""
    bias: float
    """All predicted times together over all measured ones, minus 1: how much the machine's speed changed."""
    decode_bias: float | None
    """The same of steps without a prompt; None if there were none."""
    factors: tuple[float, float]
    """How much longer the machine took from one moment to another (`MachineSpeed`): 5% and 95% of the steps."""
    waited: float
    """Share of the time in which the engine's thread did not run: waiting, or other programs had the core."""


def calibrate(steps: Sequence[LoggedStep]) -> LatencyModel:
    """The latency model of an engine from its steps.

    The shape comes from the CPU time of the engine's thread, which other programs hardly disturb; then it is brought to
    the level of the wall clock.

    Raises:
        ValueError: too few steps.
    """
    shape, _ = fit_latency([StepSample(step.work, step.cpu_s) for step in steps])
    return _at_wall_level(shape, steps)


def _at_wall_level(shape: LatencyModel, steps: Sequence[LoggedStep]) -> LatencyModel:
    """The model with all constants scaled by one factor and one more constant per step, so that `steps` take as long.

    The factor is the thread's time for all steps over the predicted one, and a part for what the thread waits for; the
    constant is waiting too. Waiting is fitted alone: next to the noise of the steps themselves it is little, and a
    constant found through that noise made short steps twice as long as they were. Squared errors count over the
    predicted time, as if waiting were a sum over a step's parts: then all of it comes out as measured.
    """
    predicted = np.array([shape.step_s(step.work) for step in steps])
    busy_s = np.array([step.cpu_s for step in steps])
    waited_s = np.array([step.work_s for step in steps]) - busy_s
    weight = 1 / np.sqrt(predicted)
    terms = np.stack([predicted, np.ones(len(steps))], axis=1)
    share, constant_s = np.linalg.lstsq(terms * weight[:, None], waited_s * weight, rcond=None)[0].tolist()
    if constant_s < 0 or share < 0:
        share, constant_s = float(waited_s.sum() / predicted.sum()), 0.0
    factor = float(busy_s.sum() / predicted.sum()) + share
    scaled = {name: value * factor for name, value in msgspec.structs.asdict(shape).items()}
    return LatencyModel(**scaled | {"host_s": scaled["host_s"] + constant_s})


def step_errors(replays: Sequence[tuple[LatencyModel, Sequence[LoggedStep]]]) -> StepErrors | None:
    """Errors of each replay's model on its steps; None without steps."""
    pairs = [(model.step_s(step.work), step) for model, steps in replays for step in steps]
    stats = error_stats([(predicted_s, step.work_s) for predicted_s, step in pairs])
    if stats is None:
        return None
    decodes = [pair for pair in pairs if stratum_of(pair[1].work) is Stratum.DECODE]
    factors: list[float] = []
    for model, steps in replays:
        speed = MachineSpeed(model, steps)
        factors += [speed.factor(step.ended_s) for step in steps]
    return StepErrors(
        steps=stats.steps,
        mape=stats.mape,
        p95_s=stats.p95_s,
        bias=_bias(pairs),
        decode_bias=_bias(decodes) if decodes else None,
        factors=(quantile(sorted(factors), 0.05), quantile(sorted(factors), 0.95)),
        waited=1 - sum(step.cpu_s for _, step in pairs) / sum(step.work_s for _, step in pairs),
    )


def _bias(pairs: Sequence[tuple[float, LoggedStep]]) -> float:
    return sum(predicted_s for predicted_s, _ in pairs) / sum(step.work_s for _, step in pairs) - 1


def simulated_request(request: ReplayRequest, *, arrival_s: float, prefix: str = "") -> SimulatedRequest:
    """The request as the simulator takes it: with the clues to its length that the engine gets."""
    return SimulatedRequest(
        id=f"{prefix}{request.id}",
        terms=request.terms,
        arrival_s=arrival_s,
        prompt_tokens=request.prompt_tokens,
        output_tokens=request.output_tokens,
        clues=LengthClues(max_tokens=request.output_tokens),
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
        differences = [100 * (a - b) for a, b in zip(measured, simulated, strict=True)]
        mean = fmean(differences)
        found[name] = Agreement(
            measured=measured,
            simulated=simulated,
            difference_points=mean,
            standard_error_points=stdev(differences) / len(differences) ** 0.5 if len(differences) > 1 else None,
            target_points=target_points,
            within=abs(mean) <= target_points,
        )
    return found
