"""What the log keeps of a request's decisions."""

import pytest
from msgspec.structs import replace

from engine_builders import H100_LLAMA_8B, decoding, engine_limits, engine_state, service_terms, waiting
from proserve_core.batching import BatchPlan, Reason
from proserve_core.batching.explain import Decision, DecisionLog, decision_log
from proserve_core.batching.registry import POLICIES, make_policy
from proserve_core.replica import Replica


class Logged:
    """A replica under `priority` with a log, stepped on a virtual clock."""

    def __init__(self, *, blocks: int = 100, max_sequences: int = 8) -> None:
        self.log = DecisionLog()
        self.now_s = 0.0
        self.replica = Replica(
            policy=make_policy("priority"),
            policy_name="priority",
            limits=engine_limits(blocks=blocks, max_sequences=max_sequences),
            latency=H100_LLAMA_8B,
            decisions=self.log,
        )

    def submit(self, name: str, *, prompt: int = 20, output: int = 20, weight: float = 1.0) -> None:
        self.replica.submit(
            request_id=name,
            terms=service_terms(weight),
            arrival_s=self.now_s,
            prompt_tokens=prompt,
            output_tokens=output,
        )

    def step(self, steps: int = 1) -> None:
        for _ in range(steps):
            step = self.replica.begin_step(self.now_s)
            assert step is not None
            self.now_s += step.duration_s
            self.replica.complete_step(self.now_s)

    def story(self, name: str) -> list[Decision]:
        return [each.decision for each in self.log.decisions(name)[name]]


def test_a_request_that_runs_at_once_has_one_entry_however_long_it_runs() -> None:
    logged = Logged()
    logged.submit("r")
    logged.step(20)
    assert logged.story("r") == [Decision.RUNS]
    assert logged.replica.pending == 0


def test_waiting_is_noted_once_for_each_reason_and_then_the_admission() -> None:
    logged = Logged(max_sequences=1)
    logged.submit("first", output=5)
    logged.submit("second")
    logged.step(6)
    assert logged.story("second") == [Decision.WAITS, Decision.RUNS]
    waits, runs = logged.log.decisions("second")["second"]
    assert waits.reason == "the sequence limit is reached"
    assert (waits.age_s, runs.tokens) == (0.0, 20)
    assert runs.age_s > 0


def test_loss_of_blocks_names_the_taker_and_the_new_admission_follows() -> None:
    logged = Logged(blocks=4)
    logged.submit("light", prompt=33, output=10)
    logged.step(2)
    logged.submit("heavy", prompt=50, output=3, weight=9.0)
    logged.step(6)
    assert logged.story("light")[:2] == [Decision.RUNS, Decision.LOSES_BLOCKS]
    assert logged.story("light")[-1] is Decision.RUNS
    assert logged.log.decisions("light")["light"][1].taken_by == "heavy"


def test_requests_are_found_by_the_part_of_the_id_that_the_sender_chose() -> None:
    logged = Logged()
    logged.submit("cmpl-abc-0-00000001")
    logged.submit("cmpl-abcd-0-00000002")
    logged.step()
    assert list(logged.log.decisions("abc")) == ["cmpl-abc-0-00000001"]
    assert logged.log.decisions("ab") == {}


def test_what_is_kept_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decision_log, "KEPT_REQUESTS", 3)
    monkeypatch.setattr(decision_log, "KEPT_DECISIONS", 2)
    logged = Logged(blocks=4)
    for number in range(5):
        logged.submit(f"light-{number}", prompt=33, output=10)
        logged.step(2)
        logged.submit(f"heavy-{number}", prompt=50, output=3, weight=9.0)
        while logged.replica.pending:
            logged.step()
    assert len(logged.log) == 3
    assert logged.log.latest_ids(2) == ["heavy-4", "light-4"]
    assert logged.story("light-4") == [Decision.RUNS, Decision.RUNS]


def test_a_burst_is_noted_over_several_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decision_log, "NOTED_PER_STEP", 4)
    monkeypatch.setattr(decision_log, "NEW_PER_STEP", 4)
    logged = Logged(max_sequences=1)
    for number in range(10):
        logged.submit(f"r{number}")
    logged.step()
    noted = len(logged.log)
    logged.step(4)
    assert (noted, len(logged.log)) == (4, 10)


def test_those_that_begin_to_wait_are_noted_some_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decision_log, "NEW_PER_STEP", 2)
    logged = Logged(max_sequences=1)
    for number in range(10):
        logged.submit(f"r{number}")
    noted = []
    for _ in range(4):
        logged.step()
        noted.append(len(logged.log))
    assert noted == [3, 5, 7, 9]


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_a_request_that_the_policy_does_not_see_is_noted_when_it_does(name: str) -> None:
    policy, log = make_policy(name), DecisionLog()
    state = engine_state(waiting("shown", 40), waiting("hidden", 50, terms=service_terms(2.0)))
    state.requests.hide({"hidden"})
    log.arrived("hidden")
    log.arrived("shown")
    log.note(policy, state, policy.plan(state))
    first = len(log.decisions("shown")), len(log.decisions("hidden"))
    state.requests.hide(set())
    log.note(policy, state, policy.plan(state))
    assert (first, len(log.decisions("hidden"))) == ((1, 0), 1)


def test_blocks_that_the_engine_took_by_itself_are_told_apart() -> None:
    logged = Logged()
    logged.submit("r")
    logged.step()
    logged.log.lost_blocks(decoding("r"), now_s=1.5)
    last = logged.log.decisions("r")["r"][-1]
    assert (last.decision, last.age_s) == (Decision.LOSES_BLOCKS, 1.5)
    assert "no plan chose this request" in last.reason


def test_who_is_left_out_step_after_step_is_noted_once_and_again_after_a_loss() -> None:
    policy, log = make_policy("priority"), DecisionLog()
    requests = [decoding(f"r{number}") for number in range(12)]
    state = engine_state(*requests)
    plan = BatchPlan(
        order=tuple(request.id for request in requests),
        waits={request.id: Reason.STEP_TIME for request in requests},
        rest=Reason.STEP_TIME,
    )
    noted = []
    for _ in range(3):
        log.note(policy, state, plan)
        noted.append(len(log))
    log.lost_blocks(requests[0], now_s=0.0)
    log.note(policy, state, plan)
    assert noted == [decision_log.NOTED_PER_STEP, 12, 12]
    assert [each.decision for each in log.decisions("r0")["r0"]] == [
        Decision.PAUSES,
        Decision.LOSES_BLOCKS,
        Decision.PAUSES,
    ]
    assert len(log.decisions("r1")["r1"]) == 1
    log.note(policy, state, replace(plan, waits=dict.fromkeys(plan.waits, Reason.BLOCKS)))
    assert [each.reason for each in log.decisions("r1")["r1"]] == [Reason.STEP_TIME, Reason.BLOCKS]
