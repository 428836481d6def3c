"""What a policy gives away on a workload against the best of the others, over several seeds.

The best other one is a single policy for all seeds: picking the luckiest anew for each would call noise regret.
"""

import statistics
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from proserve_core.batching.protocol import ObservesProgress
from proserve_core.batching.registry import make_policy
from proserve_core.batching.state import BatchPlan, EngineState, RequestState
from proserve_core.replica import Replica
from proserve_lab.search.spec import WorkloadSpec, build
from proserve_lab.simulation.run import simulate

OTHERS = ("slide-batching", "density", "qoserve", "srpf", "edf", "sarathi-priority")
"""Policies that are tried against ours: those that are best somewhere on the traces, and the orders they come from."""
MAX_STEPS = 12_000
"""A policy that takes more steps than this on a small workload works in circles; it counts as earning nothing."""


class _TooLongError(Exception):
    """More than `MAX_STEPS` steps."""


class _Bounded:
    """A policy that may not plan for ever."""

    def __init__(self, name: str) -> None:
        self._policy = make_policy(name)
        self._observer = self._policy if isinstance(self._policy, ObservesProgress) else None
        self._left = MAX_STEPS

    def plan(self, state: EngineState) -> BatchPlan:
        self._left -= 1
        if self._left < 0:
            raise _TooLongError
        return self._policy.plan(state)

    def ended(self, request: RequestState, *, finished: bool) -> None:
        if self._observer is not None:
            self._observer.ended(request, finished=finished)


class Played(msgspec.Struct, frozen=True, kw_only=True):
    """How one policy did on one workload."""

    tdg_ratio: float
    lost: Mapping[str, float]
    """By cause, as a share of what was earnable."""


class Regret(msgspec.Struct, frozen=True, kw_only=True):
    """Ours against the best other policy on one specification."""

    mean: float
    """Best other's TDG ratio less ours, mean over the seeds; below 0 where ours is ahead."""
    spread: float
    """Standard error of that mean; 0 with a single seed."""
    best: str
    ours: float
    theirs: float
    lost: Mapping[str, float]
    """By cause: what ours loses more than the best other one, as a share of what was earnable."""


def play(spec: WorkloadSpec, seed: int, policy: str) -> Played:
    """Simulate `policy` on the workload that `seed` draws from `spec`.

    Raises:
        PolicyError: there is no such policy.
        ValueError: the calibration does not exist.
    """
    workload = build(spec, seed)
    replica = Replica(policy=_Bounded(policy), policy_name=policy, limits=workload.limits, latency=workload.latency)
    try:
        total = simulate(workload.requests, replicas=[replica], to_the_end=False).ledger.total()
    except _TooLongError:
        return Played(tdg_ratio=0.0, lost={})
    return Played(
        tdg_ratio=total.tdg_ratio,
        lost={cause.value: gain / total.earnable for cause, gain in sorted(total.lost.items())},
    )


def regret(
    spec: WorkloadSpec, *, ours: str, seeds: Sequence[int], others: Iterable[str] = OTHERS, at_least: float = -1.0
) -> Regret | None:
    """Ours against the best of `others`; None when the regret can't reach `at_least`, however good they are."""
    own = [play(spec, seed, ours) for seed in seeds]
    own_mean = statistics.fmean(item.tdg_ratio for item in own)
    if 1 - own_mean < at_least:
        return None
    found = {name: [play(spec, seed, name) for seed in seeds] for name in others if name != ours}
    best = max(found, key=lambda name: statistics.fmean(item.tdg_ratio for item in found[name]))
    gaps = [theirs.tdg_ratio - mine.tdg_ratio for theirs, mine in zip(found[best], own, strict=True)]
    causes = sorted({cause for item in (*own, *found[best]) for cause in item.lost})
    return Regret(
        mean=statistics.fmean(gaps),
        spread=statistics.stdev(gaps) / len(gaps) ** 0.5 if len(gaps) > 1 else 0.0,
        best=best,
        ours=own_mean,
        theirs=own_mean + statistics.fmean(gaps),
        lost={cause: _mean_loss(own, cause) - _mean_loss(found[best], cause) for cause in causes},
    )


def _mean_loss(played: Sequence[Played], cause: str) -> float:
    return statistics.fmean(item.lost.get(cause, 0.0) for item in played)
