"""`weighted-vtc` by hand-worked examples."""

import pytest

from engine_builders import MILLISECOND_PER_TOKEN, engine_limits, engine_state, service_terms, waiting
from proserve_core.batching import EngineState, RequestState
from proserve_core.batching.registry import PolicyError, make_policy
from proserve_core.batching.weighted_vtc import VtcOptions, WeightedVtc
from proserve_core.objectives import ServiceTerms
from proserve_core.replica import Replica

HEAVY, LIGHT = service_terms(2.0), service_terms(1.0)


class Engine:
    """A replica under the policy, stepped by hand."""

    def __init__(self, *, sequences: int = 64, step_tokens: int = 8192, options: VtcOptions | None = None) -> None:
        self.policy = WeightedVtc(options)
        self.replica = Replica(
            policy=self.policy,
            policy_name="weighted-vtc",
            limits=engine_limits(max_sequences=sequences, max_step_tokens=step_tokens),
            latency=MILLISECOND_PER_TOKEN,
        )
        self.now_s = 0.0

    def submit(self, name: str, terms: ServiceTerms, prompt: int, output: int = 1) -> None:
        self.replica.submit(
            request_id=name, terms=terms, arrival_s=self.now_s, prompt_tokens=prompt, output_tokens=output
        )

    def step(self) -> list[tuple[str, int]]:
        started = self.replica.begin_step(self.now_s)
        assert started is not None
        self.now_s += started.duration_s
        self.replica.complete_step(self.now_s)
        return [(entry.id, entry.tokens) for entry in started.plan.entries]


def ids(policy: WeightedVtc, state: EngineState) -> list[str]:
    return [entry.id for entry in policy.plan(state).entries]


def requests(*, heavy: int, light: int) -> list[RequestState]:
    return [waiting(f"light{n}", 100, terms=LIGHT) for n in range(light)] + [
        waiting(f"heavy{n}", 100, terms=HEAVY) for n in range(heavy)
    ]


def test_waiting_prompts_are_picked_two_to_one_by_weight() -> None:
    # Each prompt adds 100 / weight: light 100, heavy 50. Ties go to the name that sorts first, weight-1.
    state = engine_state(*requests(heavy=4, light=3))
    assert ids(WeightedVtc(), state) == ["light0", "heavy0", "heavy1", "light1", "heavy2", "heavy3", "light2"]


def test_prompts_are_charged_once_and_each_emitted_token_twice() -> None:
    engine = Engine()
    engine.submit("heavy", HEAVY, prompt=100, output=3)
    engine.submit("light", LIGHT, prompt=40, output=2)
    engine.step()
    engine.step()
    # Seen so far: both prompts and one token each.
    assert engine.policy.counters == {"weight-2": 100 / 2 + 2 / 2, "weight-1": 40 + 2}
    engine.submit("other", HEAVY, prompt=1)
    engine.step()
    # heavy has emitted 2 and light is gone after its second.
    assert engine.policy.counters == {"weight-2": 100 / 2 + 2 * 2 / 2, "weight-1": 40 + 2 * 2}


def test_a_request_that_begins_and_ends_in_one_step_is_charged_all_the_same() -> None:
    engine = Engine()
    engine.submit("short", LIGHT, prompt=30, output=1)
    engine.step()
    engine.submit("next", HEAVY, prompt=10, output=1)
    engine.step()
    assert engine.policy.counters["weight-1"] == 30 + 2


def test_service_in_one_step_decides_whose_turn_it_is_in_the_next() -> None:
    engine = Engine(sequences=1)
    engine.submit("light0", LIGHT, prompt=100)
    engine.submit("light1", LIGHT, prompt=100)
    engine.submit("heavy0", HEAVY, prompt=100)
    engine.submit("heavy1", HEAVY, prompt=100)
    # light 102, heavy 51, heavy 102: a tie again.
    assert [engine.step()[0][0] for _ in range(4)] == ["light0", "heavy0", "heavy1", "light1"]


def test_a_client_that_comes_back_gets_no_credit_for_idle_time() -> None:
    engine = Engine(sequences=1)
    for number in range(4):
        engine.submit(f"light{number}", LIGHT, prompt=100)
    engine.step()
    engine.step()
    # light stands at 2 * 102 when heavy comes: heavy is lifted to the 204 that have been seen by then, not at 0.
    engine.submit("heavy", HEAVY, prompt=10)
    engine.submit("heavy-too", HEAVY, prompt=10)
    assert engine.step()[0][0] == "light2"
    assert engine.policy.counters["weight-2"] == pytest.approx(204)
    assert engine.step()[0][0] == "heavy"


def test_residents_run_before_anyone_is_admitted() -> None:
    engine = Engine(step_tokens=60)
    engine.submit("light", LIGHT, prompt=100, output=5)
    assert engine.step() == [("light", 60)]
    engine.submit("heavy", HEAVY, prompt=100)
    assert engine.step() == [("light", 40), ("heavy", 20)]


def test_charges_are_options() -> None:
    engine = Engine(options=VtcOptions(input_charge=0.0, output_charge=3.0))
    engine.submit("light", LIGHT, prompt=100, output=2)
    engine.step()
    engine.step()
    assert engine.policy.counters == {"weight-1": 3.0}


@pytest.mark.parametrize("charge", [-1.0, float("nan"), float("inf")])
def test_a_charge_that_no_counter_can_take_is_refused(charge: float) -> None:
    with pytest.raises(PolicyError, match=f"output_charge must be a finite number of at least 0, got {charge}"):
        make_policy("weighted-vtc", {"output_charge": charge})
