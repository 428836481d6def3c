"""A request's record, told to people."""

import msgspec

from proserve_cli.request_story import story
from proserve_core.gain import LossCause
from proserve_core.objectives import ServiceObjectives, ServiceTerms
from proserve_core.request_record import Alternative, Attempt, RequestRecord

RECORD = RequestRecord(
    id="abc",
    arrived_unix_s=1_700_000_000.0,
    tenant="acme",
    model="tiny",
    pool="chat",
    terms=ServiceTerms(
        priority_class="high",
        weight=4,
        first_token_gain=1,
        output_token_gain=1,
        objectives=ServiceObjectives(ttft_s=0.5, tpot_s=0.04),
    ),
    expected_prompt_tokens=790,
    prompt_tokens=812,
    expected_output_tokens=40,
    output_tokens=50,
    max_tokens=64,
    attempts=(
        Attempt(
            engine="chat-0", reason="most loaded that is not overloaded", sent_s=0.25, waited_s=0.248,
            expected_ttft_s=0.4, expected_gain=160.0,
            alternatives=(
                Alternative(engine="chat-0", expected_ttft_s=0.4, expected_gain=160.0),
                Alternative(engine="chat-1", expected_ttft_s=0.6, expected_gain=152.0),
            ),
            tokens=20, failure="truncated",
        ),
        Attempt(engine="chat-1", reason="only engine that may take work", sent_s=1.5, tokens=30),
    ),
    ttft_s=0.55, last_token_s=4.0, ended_s=4.01, status=200, earned=100.0,
    lost={LossCause.LATE_FIRST_TOKEN: 4.0, LossCause.LATE_TOKEN_QUEUED: 96.0},
)  # fmt: skip


def told(record: RequestRecord) -> str:
    return "\n".join(story(record))


def test_whole_way_of_a_request_is_told() -> None:
    assert story(RECORD) == [
        "request abc of tenant acme, class high (weight 4), model tiny in pool chat",
        "  arrived 2023-11-14 22:13:20 UTC; 812 prompt tokens (expected 790); 50 tokens out (expected 40, at most 64)",
        "  due: first token after 0.500 s, then 40 ms per token",
        "     0.250 s  sent to chat-0 after waiting 0.248 s for an engine: most loaded that is not overloaded",
        "             expected there: first token after 0.400 s, gain 160",
        "             instead of chat-1 (first token after 0.600 s, gain 152)",
        "     0.550 s  first token from chat-0: 0.050 s late, expected after 0.400 s",
        "             engine chat-0 failed (truncated) after 20 tokens",
        "     1.500 s  sent to chat-1: only engine that may take work",
        "     4.010 s  ended with status 200",
        "  gain: 100 earned of 200",
        "  lost: 96 to late_token_queued",
        "  lost: 4 to late_first_token",
    ]


def test_first_token_is_told_once_and_by_the_engine_that_brought_it() -> None:
    dead = Attempt(engine="chat-2", reason="fewest requests", sent_s=0.01, failure="connect")
    text = told(msgspec.structs.replace(RECORD, attempts=(dead, *RECORD.attempts)))
    assert text.count("first token from") == 1
    assert "engine chat-2 failed (connect) after 0 tokens" in text


def test_request_under_way_says_so() -> None:
    waiting = msgspec.structs.replace(
        RECORD, attempts=(), ttft_s=None, ended_s=None, status=None, earned=0.0, lost={}, output_tokens=0
    )
    assert story(waiting)[-1].strip() == "under way: no token yet"


def test_client_that_left_and_errors_are_named() -> None:
    assert "ended with status 499 (the client left)" in told(msgspec.structs.replace(RECORD, status=499))
    assert "ended with status 503 (no_engine_available)" in told(
        msgspec.structs.replace(RECORD, status=503, error="no_engine_available")
    )


def test_class_that_it_was_degraded_to_and_the_reason_of_a_refusal_are_told() -> None:
    lighter = msgspec.structs.replace(RECORD.attempts[1], served_as="low")
    refused = msgspec.structs.replace(RECORD, attempts=(lighter,), status=429, error="overloaded", why="no prospect")
    assert "sent to chat-1 as class low: only engine" in told(refused)
    assert "ended with status 429 (overloaded)\n             no prospect" in told(refused)


def test_many_alternatives_are_cut_and_counted() -> None:
    many = tuple([Alternative(engine=f"chat-{number}") for number in range(20)])
    first = msgspec.structs.replace(RECORD.attempts[0], alternatives=many)
    assert "chat-8; and 11 more" in told(msgspec.structs.replace(RECORD, attempts=(first,)))
