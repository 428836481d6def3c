"""How long an engine's circuit stays open; that the fleet keeps to it is in test_fleet."""

import math

from proserve_gateway.fleet.health import FAILURES_TO_OPEN, FIRST_OPEN_S, LONGEST_OPEN_S, EngineHealth, EngineState


def opened() -> EngineHealth:
    """Its circuit has opened at 0 s."""
    health = EngineHealth()
    health.poll_answered(draining=False)
    for _ in range(FAILURES_TO_OPEN):
        health.request_failed(0.0)
    return health


def test_time_doubles_with_each_failed_probe_up_to_a_limit() -> None:
    health, now_s, open_s = opened(), 0.0, []
    for _ in range(8):
        reopens_s = health.reopens_s(now_s)
        open_s.append(reopens_s - now_s)
        now_s = reopens_s
        assert health.state(now_s) is EngineState.HALF_OPEN
        health.request_sent()
        health.request_failed(now_s)
    assert open_s[:5] == [FIRST_OPEN_S * 2**doubled for doubled in range(5)]
    assert open_s[-1] == LONGEST_OPEN_S == max(open_s)


def test_an_answer_closes_it_and_the_next_time_is_short_again() -> None:
    health = opened()
    health.request_sent()
    health.request_failed(FIRST_OPEN_S)
    health.request_answered()
    assert health.state(FIRST_OPEN_S) is EngineState.READY
    assert health.reopens_s(FIRST_OPEN_S) == math.inf
    for _ in range(FAILURES_TO_OPEN):
        health.request_failed(10.0)
    assert health.reopens_s(10.0) == 10.0 + FIRST_OPEN_S


def test_requests_that_were_under_way_and_fail_later_do_not_keep_it_open() -> None:
    health = opened()
    for now_s in (0.2, 0.4, 0.6):
        health.request_failed(now_s)
    assert health.reopens_s(0.6) == FIRST_OPEN_S
