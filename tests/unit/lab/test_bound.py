"""The bound holds against every schedule of tiny workloads and against policies, and is exact where a hand can tell."""

import itertools
import random
from collections.abc import Iterator, Sequence

import msgspec
import pytest

from proserve_core.batching import EngineLimits
from proserve_core.batching.registry import make_policy
from proserve_core.gain import deadline_s, earnable_gain, token_gain
from proserve_core.latency import LatencyModel, StepWork
from proserve_core.objectives import ServiceObjectives, ServiceTerms
from proserve_core.replica import Replica
from proserve_lab.bound import fluid
from proserve_lab.bound.fluid import BoundError, fluid_bound
from proserve_lab.simulation.run import simulate
from proserve_lab.simulation.workload import DEFAULT_MIX, SimulatedRequest, make_workload
from proserve_lab.trace import TraceRow

GPU = LatencyModel(
    host_s=0.0015,
    floor_s=0.0055,
    linear_base_s=0.0003,
    linear_token_s=19.5e-6,
    attention_s=5e-10,
    context_s=42e-9,
    sequence_s=7e-6,
)
FIVE_MS_TOKENS = LatencyModel(
    host_s=0.0, floor_s=0.0, linear_base_s=0.0, linear_token_s=0.005, attention_s=0.0, context_s=0.0, sequence_s=0.0
)
LIMITS = EngineLimits(block_size=16, blocks=20_000, max_sequences=64, max_step_tokens=2048)


def request(
    number: int = 0,
    *,
    arrival_s: float = 0.0,
    prompt: int = 10,
    output: int = 1,
    weight: float = 1.0,
    ttft_s: float = 1.0,
    tpot_s: float = 0.05,
    first_gain: float = 1.0,
) -> SimulatedRequest:
    return SimulatedRequest(
        id=f"r{number}",
        terms=ServiceTerms(
            priority_class="only",
            weight=weight,
            first_token_gain=first_gain,
            output_token_gain=1.0,
            objectives=ServiceObjectives(ttft_s=ttft_s, tpot_s=tpot_s),
        ),
        arrival_s=arrival_s,
        prompt_tokens=prompt,
        output_tokens=output,
    )


def bound(
    requests: Sequence[SimulatedRequest],
    *,
    latency: LatencyModel = GPU,
    limits: EngineLimits = LIMITS,
    replicas: int = 1,
    bucket_s: float | None = None,
    lengths_known: bool = True,
) -> float:
    found = fluid_bound(
        requests, latency=latency, limits=limits, replicas=replicas, bucket_s=bucket_s, lengths_known=lengths_known
    )
    return found.tdg_bound


class Progress(msgspec.Struct, frozen=True):
    """What a request has behind it."""

    computed: int = 0
    emitted: int = 0


class BestSchedule:
    """Searches all schedules of one engine: each step any subset of requests, prompts whole or cut, or idleness.

    No preemption: with blocks for all, dropping computed tokens never helps. Requests that can't earn any more are left
    out, which never hurts either.
    """

    def __init__(
        self,
        requests: Sequence[SimulatedRequest],
        *,
        latency: LatencyModel,
        limits: EngineLimits,
        chunks: Sequence[float],
    ) -> None:
        self._requests = requests
        self._latency = latency
        self._limits = limits
        self._chunks = chunks
        self._best = 0.0
        self._seen: dict[tuple[Progress, ...], list[tuple[float, float]]] = {}

    def gain(self) -> float:
        self._search(min(item.arrival_s for item in self._requests), tuple(Progress() for _ in self._requests), 0.0)
        return self._best

    def _search(self, now_s: float, state: tuple[Progress, ...], earned: float) -> None:
        self._best = max(self._best, earned)
        hopes = [self._hope(item, done, now_s) for item, done in zip(self._requests, state, strict=True)]
        if earned + sum(hopes) <= self._best:
            return
        visits = self._seen.setdefault(state, [])
        if any(at_s <= now_s and gain >= earned for at_s, gain in visits):
            return
        visits.append((now_s, earned))
        later = [item.arrival_s for item in self._requests if item.arrival_s > now_s]
        options = [
            list(self._options(item, done)) if hope > 0 and item.arrival_s <= now_s else [0]
            for item, done, hope in zip(self._requests, state, hopes, strict=True)
        ]
        for amounts in sorted(itertools.product(*options), key=lambda amounts: -sum(map(bool, amounts))):
            if not any(amounts):
                if later:
                    self._search(min(later), state, earned)
                continue
            if sum(map(bool, amounts)) > self._limits.max_sequences or sum(amounts) > self._limits.max_step_tokens:
                continue
            self._step(now_s, state, earned, amounts)

    def _step(self, now_s: float, state: tuple[Progress, ...], earned: float, amounts: Sequence[int]) -> None:
        attention, context = 0.0, 0
        for done, amount in zip(state, amounts, strict=True):
            if amount and done.emitted:
                context += done.computed
            else:
                attention += amount * (amount + 2 * done.computed)
        work = StepWork(
            new_tokens=sum(amounts),
            attention=attention,
            decode_context=context,
            sequences=sum(map(bool, amounts)),
        )
        end_s = now_s + self._latency.step_s(work)
        following = list(state)
        for place, (item, done, amount) in enumerate(zip(self._requests, state, amounts, strict=True)):
            computed, emitted = done.computed + amount, done.emitted
            if amount and computed == item.prompt_tokens + emitted:
                emitted += 1
                if end_s < deadline_s(terms=item.terms, arrival_s=item.arrival_s, token=emitted):
                    earned += token_gain(item.terms, emitted)
            following[place] = Progress(computed, emitted)
        self._search(end_s, tuple(following), earned)

    def _options(self, item: SimulatedRequest, done: Progress) -> Iterator[int]:
        left = item.prompt_tokens + done.emitted - done.computed
        yield 0
        if done.emitted:
            yield 1
        else:
            yield from {max(1, round(share * left)) for share in self._chunks}

    def _hope(self, item: SimulatedRequest, done: Progress, now_s: float) -> float:
        # No token comes sooner than by a step each, the first of them after the tokens that are left to compute.
        step_s = self._latency.step_s(StepWork(new_tokens=1, sequences=1))
        left = item.prompt_tokens + done.emitted - done.computed
        soonest_s = max(now_s, item.arrival_s) + step_s + (left - 1) * self._latency.linear_token_s - 1e-9
        return sum(
            token_gain(item.terms, token)
            for place, token in enumerate(range(done.emitted + 1, item.output_tokens + 1))
            if deadline_s(terms=item.terms, arrival_s=item.arrival_s, token=token) > soonest_s + place * step_s
        )


def tiny_workload(draw: random.Random) -> tuple[list[SimulatedRequest], LatencyModel, EngineLimits]:
    """A few requests that want more than the engine has."""
    count = draw.choice([2, 2, 3, 3, 4])
    arrivals_s = sorted(draw.choice([0.0, 0.0, draw.uniform(0, 0.15)]) for _ in range(count))
    requests = [
        request(
            number,
            arrival_s=arrival_s - arrivals_s[0],
            prompt=draw.choice([1, 20, 60, 150, 300]),
            output=draw.choice([1, 2, 3, 4] if count < 4 else [1, 2, 3]),
            weight=draw.choice([1, 1, 2, 5]),
            ttft_s=draw.uniform(0.02, 0.25),
            tpot_s=draw.uniform(0.01, 0.06),
            first_gain=draw.choice([0, 1, 1, 10]),
        )
        for number, arrival_s in enumerate(arrivals_s)
    ]
    latency = LatencyModel(
        host_s=draw.choice([0.0, 0.004, 0.015]),
        floor_s=draw.choice([0.0, 0.01, 0.02]),
        linear_base_s=draw.choice([0.0, 0.003]),
        linear_token_s=draw.choice([0.0, 1e-4, 5e-4]),
        attention_s=draw.choice([0.0, 1e-7, 1e-6]),
        context_s=draw.choice([0.0, 1e-5, 5e-5]),
        sequence_s=draw.choice([1e-5, 0.004]),
    )
    limits = msgspec.structs.replace(
        LIMITS, max_sequences=draw.choice([1, 2, 64]), max_step_tokens=draw.choice([64, 2048])
    )
    return requests, latency, limits


@pytest.mark.parametrize("block", range(8))
def test_no_schedule_of_a_tiny_workload_earns_more(block: int) -> None:
    for number in range(25):
        draw = random.Random(1000 * block + number)
        requests, latency, limits = tiny_workload(draw)
        chunks = (1.0,) if len(requests) > 3 else (1.0, 0.5)
        if limits.max_step_tokens == 64:
            chunks = (*chunks, 0.2)
        best = BestSchedule(requests, latency=latency, limits=limits, chunks=chunks).gain()
        earnable = sum(earnable_gain(item.terms, item.output_tokens) for item in requests) or 1.0
        value = bound(requests, latency=latency, limits=limits, bucket_s=draw.choice([0.01, 0.03, 0.2, 1.0]))
        assert value >= best / earnable - 1e-9, f"seed {1000 * block + number}"


def test_plenty_of_time_earns_everything() -> None:
    assert bound([request(number, output=4) for number in range(3)]) == pytest.approx(1.0)


def test_heaviest_are_served_when_two_of_three_fit() -> None:
    requests = [request(number, prompt=99, weight=weight) for number, weight in enumerate([1, 2, 1])]
    # 0.495 s each and a second for all: the best earns 3 of 4, and 10 ms are left for a share of the third.
    assert bound(requests, latency=FIVE_MS_TOKENS, bucket_s=0.5) == pytest.approx(3 / 4, abs=0.01)


def test_tokens_that_are_late_when_the_prefill_ends_earn_nothing() -> None:
    one, other = (request(number, prompt=1000, output=10, tpot_s=1.0) for number in range(2))
    # Deadlines are at 1, 2, ..., 10 s and the prefill takes 5 s. If a share of a prefill could earn the same share of
    # all tokens, those due at 2 to 5 s would earn, too.
    assert bound([one], latency=FIVE_MS_TOKENS, bucket_s=0.5) == pytest.approx(5 / 10, abs=0.001)
    # Shares of the second prefill may end at 6, 7, ... s: a fifth each of 5, 4, 3, 2, 1 tokens.
    assert bound([one, other], latency=FIVE_MS_TOKENS, bucket_s=0.5) == pytest.approx(8 / 20, abs=0.01)


def test_first_token_that_no_idle_engine_could_bring_in_time_is_lost() -> None:
    assert bound([request(prompt=300)], latency=FIVE_MS_TOKENS) == 0.0


def workload(count: int, *, gap_s: float) -> list[SimulatedRequest]:
    draw = random.Random(1)
    rows = [
        TraceRow(
            arrival_s=number * gap_s,
            prompt_tokens=draw.randint(800, 5000),
            output_tokens=draw.randint(1, 40),
        )
        for number in range(count)
    ]
    return make_workload(rows, mix=DEFAULT_MIX, seed=1)


def test_less_load_never_lowers_the_bound() -> None:
    bounds = [bound(workload(120, gap_s=gap_s), bucket_s=0.25) for gap_s in (0.01, 0.02, 0.05)]
    assert bounds == sorted(bounds)
    assert bounds[0] < 0.8 < bounds[-1]


def test_twice_the_requests_on_twice_the_replicas_are_worth_the_same() -> None:
    alone = workload(80, gap_s=0.01)
    twins = [msgspec.structs.replace(item, id=f"{item.id}-{twin}") for item in alone for twin in range(2)]
    assert bound(twins, replicas=2, bucket_s=0.25) == pytest.approx(bound(alone, bucket_s=0.25), abs=0.002)
    assert bound(twins, replicas=4, bucket_s=0.25) > bound(twins, replicas=2, bucket_s=0.25) + 0.02


@pytest.mark.parametrize("gap_s", [0.01, 0.03])
def test_no_policy_earns_more(gap_s: float) -> None:
    requests = workload(100, gap_s=gap_s)
    earned = {}
    for policy in ("fcfs", "edf", "density", "slide-batching", "qoserve", "recoverable-gain"):
        replica = Replica(policy=make_policy(policy), policy_name=policy, limits=LIMITS, latency=GPU)
        run = simulate(requests, replicas=[replica])
        earned[policy] = run.ledger.total().tdg_ratio
    least = bound(requests, bucket_s=0.25)
    assert max(earned.values()) <= least <= bound(requests, bucket_s=2.0) + 0.001
    assert max(earned.values()) > 0.7 * least


def test_not_knowing_lengths_lowers_the_bound() -> None:
    draw = random.Random(5)
    rows = [
        TraceRow(arrival_s=number * 0.01, prompt_tokens=2000, output_tokens=draw.choice([1, 1, 1, 40]))
        for number in range(150)
    ]
    requests = make_workload(rows, mix=DEFAULT_MIX, seed=0)
    assert bound(requests, lengths_known=False, bucket_s=0.25) < bound(requests, bucket_s=0.25) - 0.05


def test_lengths_that_the_prompt_gives_away_are_known_anyway() -> None:
    rows = [
        TraceRow(
            arrival_s=number * 0.01, prompt_tokens=1500 if number % 2 else 2500, output_tokens=30 if number % 2 else 5
        )
        for number in range(120)
    ]
    requests = make_workload(rows, mix=DEFAULT_MIX, seed=0)
    known = bound(requests, bucket_s=0.25)
    assert known < 0.9
    assert bound(requests, lengths_known=False, bucket_s=0.25) == pytest.approx(known, abs=0.004)


def test_too_many_and_too_long_requests_are_refused() -> None:
    with pytest.raises(BoundError, match="take fewer with --limit"):
        bound([request(number, arrival_s=number, output=20_000_000) for number in range(200)])


def test_windows_of_a_long_workload_bound_it_together(monkeypatch: pytest.MonkeyPatch) -> None:
    requests = workload(120, gap_s=0.02)
    whole = fluid_bound(requests, latency=GPU, limits=LIMITS, bucket_s=0.25)
    monkeypatch.setattr(fluid, "WINDOW", 40)
    monkeypatch.setattr(fluid, "HALO", 15)
    windows = fluid_bound(requests, latency=GPU, limits=LIMITS, bucket_s=0.25)
    assert windows.windows == 3
    assert windows.status == "feasible"
    # Windows of less than a second know little of each other's load.
    assert whole.tdg_bound - 0.001 <= windows.tdg_bound < 0.95
