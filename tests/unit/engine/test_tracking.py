"""vLLM's requests in the planner's terms, with stand-ins for vLLM's requests."""

from types import SimpleNamespace
from typing import Any

import pytest

from proserve_core.batching.request_table import EMITTED
from proserve_core.blocks.way_back import WayBack
from proserve_core.clues import LengthClues
from proserve_core.facts import FactsError, encode_facts
from proserve_core.objectives import ServiceObjectives, ServiceTerms
from proserve_engine.vllm.tracking import Tracker, needs_vllm, runnable

HIGH = ServiceTerms(
    priority_class="high",
    weight=4,
    first_token_gain=1,
    output_token_gain=1,
    objectives=ServiceObjectives(ttft_s=0.5, tpot_s=0.05),
)
GRAMMAR = "WAITING_FOR_STRUCTURED_OUTPUT_GRAMMAR"


def request(request_id: str = "r", **changes: Any) -> SimpleNamespace:
    values = {
        "request_id": request_id,
        "arrival_time": 1000.0,
        "drop_stale_output": False,
        "max_tokens": 10,
        "next_decode_eligible_step": 0,
        "num_computed_tokens": 0,
        "num_output_placeholders": 0,
        "num_output_tokens": 0,
        "num_prompt_tokens": 40,
        "num_stale_output_tokens": 0,
        "prompt_token_ids": list(range(40)),
        "resumable": False,
        "sampling_params": SimpleNamespace(extra_args=dict(encode_facts(HIGH, 0.2))),
        "status": SimpleNamespace(name="WAITING"),
        "structured_output_request": None,
    }
    return SimpleNamespace(**(values | changes))


class Tracked:
    def __init__(self) -> None:
        self.bad: list[tuple[str, FactsError]] = []
        self.cached: dict[str, int] = {}
        self.tracker = Tracker(
            block_size=16,
            cached_prefix=lambda request: self.cached.get(request.request_id, 0),
            bad_facts=lambda request_id, error: self.bad.append((request_id, error)),
            clock=lambda: 50.0,
            wall_clock=lambda: 1000.1,
        )

    def refresh(self, *running: Any, set_aside: tuple[Any, ...] = ()) -> None:
        self.tracker.refresh(running, set_aside=set_aside, next_step=1)


@pytest.fixture
def tracked() -> Tracked:
    return Tracked()


def test_arrival_is_the_clients_on_the_engines_clock(tracked: Tracked) -> None:
    tracked.tracker.add(request())
    # 0.1 s in vLLM, 0.2 s before it.
    assert tracked.tracker.states["r"].arrival_s == pytest.approx(49.7)


def test_clues_to_the_length_are_who_sent_it_what_it_asks_for_and_how_its_prompt_begins(tracked: Tracked) -> None:
    sampling = SimpleNamespace(extra_args=dict(encode_facts(HIGH, 0.2, "team-a")))
    system_prompt = list(range(64))
    for name, ids in (("a", [*system_prompt, 1]), ("b", [*system_prompt, 2, 3]), ("c", [5, *system_prompt])):
        tracked.tracker.add(request(name, sampling_params=sampling, prompt_token_ids=ids, max_tokens=300))
    a, b, c = (tracked.tracker.states[name].clues for name in "abc")
    assert (a.client, a.max_tokens) == ("team-a", 300)
    assert a.prefix == b.prefix != c.prefix
    tracked.tracker.add(request("short"))
    assert tracked.tracker.states["short"].clues == LengthClues(max_tokens=10)


def test_request_without_facts_runs_in_the_default_class(tracked: Tracked) -> None:
    tracked.tracker.add(request(sampling_params=SimpleNamespace(extra_args=None)))
    assert tracked.tracker.states["r"].terms.priority_class == "default"
    assert tracked.tracker.with_facts == 0
    assert not tracked.bad


def test_output_that_was_in_flight_at_preemption_counts_when_it_has_come_in(tracked: Tracked) -> None:
    preempted = request(num_output_tokens=3, num_stale_output_tokens=1, status=SimpleNamespace(name="PREEMPTED"))
    tracked.tracker.add(preempted)
    tracked.tracker.preempted(preempted)
    tracked.refresh()
    assert not list(tracked.tracker.table)
    preempted.num_output_tokens, preempted.num_stale_output_tokens = 4, 0
    tracked.refresh()
    assert [state.pending_tokens for state in tracked.tracker.table] == [44]
    assert tracked.tracker.table.columns(tracked.tracker.table.rows())[EMITTED].tolist() == [4]


def test_request_with_bad_facts_runs_in_the_default_class_and_is_reported(tracked: Tracked) -> None:
    tracked.tracker.add(request(sampling_params=SimpleNamespace(extra_args={"proserve_class": "high"})))
    assert tracked.tracker.states["r"].terms.priority_class == "default"
    assert tracked.bad[0][0] == "r"


def test_residents_follow_vllm(tracked: Tracked) -> None:
    running = request()
    tracked.tracker.add(running)
    running.num_computed_tokens, running.num_output_tokens = 42, 3
    tracked.refresh(running)
    state = tracked.tracker.states["r"]
    assert (state.resident, state.computed_tokens, state.emitted_tokens, state.blocks) == (True, 42, 3, 3)
    assert state.is_decode
    assert state.first_token_s == 50.0


def test_token_in_flight_counts_as_emitted(tracked: Tracked) -> None:
    running = request(num_computed_tokens=43, num_output_tokens=3, num_output_placeholders=1)
    tracked.tracker.add(running)
    tracked.refresh(running)
    state = tracked.tracker.states["r"]
    assert state.emitted_tokens == 4
    assert state.is_decode


def test_request_whose_last_token_is_in_flight_is_hidden_and_keeps_its_slot(tracked: Tracked) -> None:
    ending = request(num_computed_tokens=49, num_output_tokens=9, num_output_placeholders=1)
    tracked.tracker.add(ending)
    tracked.refresh(ending)
    assert not tracked.tracker.table
    assert tracked.tracker.held_slots == 1


def test_request_that_may_not_decode_in_this_step_is_hidden(tracked: Tracked) -> None:
    running = request(num_computed_tokens=40, num_output_tokens=1, next_decode_eligible_step=2)
    tracked.tracker.add(running)
    tracked.refresh(running)
    assert not tracked.tracker.table


def test_preempted_request_waits_for_its_output_in_flight(tracked: Tracked) -> None:
    victim = request(num_output_tokens=4)
    tracked.tracker.add(victim)
    tracked.refresh(victim)
    victim.status.name, victim.num_stale_output_tokens = "PREEMPTED", 1
    tracked.cached["r"] = 16
    tracked.tracker.preempted(victim)
    tracked.refresh()
    assert not tracked.tracker.table
    victim.num_stale_output_tokens = 0
    tracked.refresh()
    (state,) = tracked.tracker.table
    assert (state.resident, state.blocks, state.computed_tokens, state.preemptions) == (False, 0, 16, 1)


def test_request_is_planned_once_its_grammar_is_ready(tracked: Tracked) -> None:
    structured = SimpleNamespace(grammar=None)
    waiting = request(status=SimpleNamespace(name=GRAMMAR), structured_output_request=structured)
    tracked.tracker.add(waiting)
    tracked.refresh()
    assert not tracked.tracker.table
    structured.grammar = object()
    tracked.refresh()
    assert len(tracked.tracker.table) == 1


def test_request_with_a_broken_grammar_is_vllms_to_fail() -> None:
    broken = request(
        status=SimpleNamespace(name=GRAMMAR), structured_output_request=SimpleNamespace(grammar=ValueError())
    )
    assert needs_vllm(broken)
    assert not runnable(broken)
    assert not needs_vllm(request())


def test_requests_set_aside_with_blocks_are_vllms(tracked: Tracked) -> None:
    loading = request(status=SimpleNamespace(name="WAITING_FOR_REMOTE_KVS"))
    loaded = request("loaded", num_computed_tokens=32)
    tracked.tracker.add(loading)
    tracked.tracker.add(loaded)
    tracked.refresh(set_aside=(loading, loaded))
    assert not tracked.tracker.table


def test_streamed_input_is_not_tracked_but_holds_a_slot(tracked: Tracked) -> None:
    session = request(resumable=True)
    tracked.tracker.add(session)
    tracked.refresh(session)
    assert tracked.tracker.states == {}
    assert tracked.tracker.held_slots == 1


def test_cached_prefixes_of_waiting_requests_are_looked_up_again_in_turns(tracked: Tracked) -> None:
    for name in ("a", "b"):
        tracked.tracker.add(request(name))
    tracked.cached = {"a": 16, "b": 32}
    tracked.refresh()
    tracked.refresh()
    assert [state.computed_tokens for state in tracked.tracker.table] == [16, 32]


def test_removed_request_leaves_nothing_behind(tracked: Tracked) -> None:
    tracked.tracker.add(request())
    assert tracked.tracker.with_facts == 1
    tracked.tracker.remove("r")
    tracked.tracker.remove("r")
    tracked.refresh()
    assert tracked.tracker.with_facts == 0
    assert not tracked.tracker.table


class Host:
    """Has the first 32 tokens of everybody, and of residents one block that a copy reads."""

    def prefix_tokens(self, _request: Any, local_tokens: int) -> int:
        return max(32, local_tokens)

    def way_back(self, _request: Any) -> tuple[WayBack, int]:
        return WayBack(3, 2), 1


def test_what_the_host_has_shows_until_the_request_is_resident_and_then_as_what_would_come_back() -> None:
    tracked = Tracked()
    tracked.tracker.host = Host()
    tracked.cached["r"] = 16
    tracked.tracker.add(request())
    state = tracked.tracker.states["r"]
    assert (state.computed_tokens, state.host_tokens) == (32, 16)
    tracked.refresh(request(num_computed_tokens=40))
    assert (state.host_tokens, state.copied_blocks, state.flush_blocks, state.copying_blocks) == (0, 3, 2, 1)
    tracked.cached["r"] = 0
    tracked.tracker.preempted(request())
    assert (state.computed_tokens, state.host_tokens) == (32, 32)
    assert (state.blocks, state.copied_blocks, state.flush_blocks, state.copying_blocks) == (0, 0, 0, 0)
