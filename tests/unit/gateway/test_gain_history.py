"""Gain over time: what ended in which interval and window."""

import pytest

from proserve_core.gain import GainLedger, LossCause, RequestAccount
from proserve_core.objectives import ServiceObjectives, ServiceTerms
from proserve_gateway.seeing.gain_history import GainHistory


class Bench:
    def __init__(self) -> None:
        self.now_s = 1000.0
        self.ledger = GainLedger()
        self.history = GainHistory(self.ledger, clock=lambda: self.now_s)

    def ended(self, name: str = "high", *, on_time: int = 0, late: int = 0) -> None:
        terms = ServiceTerms(
            priority_class=name,
            weight=1,
            first_token_gain=1,
            output_token_gain=1,
            objectives=ServiceObjectives(ttft_s=1.0, tpot_s=0.0),
        )
        account = RequestAccount(terms, 0.0)
        account.tokens_at(0.5, on_time)
        account.tokens_at(2.0, late)
        self.ledger.close(account)

    def after(self, seconds: float) -> None:
        self.now_s += seconds
        self.history.note()


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_each_interval_has_what_ended_in_it(bench: Bench) -> None:
    bench.after(5)
    bench.ended(on_time=3, late=1)
    bench.after(5)
    bench.after(5)
    reply = bench.history.reply([], seconds=60)
    assert reply.ends_unix_s == [1005.0, 1010.0, 1015.0]
    assert reply.series["high"].earned == [0, 3, 0]
    assert reply.series["high"].earnable == [0, 4, 0]


def test_windows_leave_out_what_is_older(bench: Bench) -> None:
    bench.ended(late=4)
    bench.after(5)
    bench.after(100)
    bench.ended(on_time=2)
    windows = bench.history.reply([], seconds=60).windows
    assert (windows["1m"]["high"].tdg_ratio, windows["1m"]["high"].requests) == (1.0, 1)
    assert windows["1m"]["high"].lost == {}
    assert windows["5m"]["high"].lost == {LossCause.LATE_FIRST_TOKEN: 1, LossCause.LATE_TOKEN_QUEUED: 3}
    assert windows["all"]["high"].requests == 2


def test_configured_class_without_requests_is_there(bench: Bench) -> None:
    reply = bench.history.reply(["low"], seconds=60)
    assert reply.windows["1m"]["low"].requests == 0
    assert reply.series["low"].earned == []


def test_only_as_much_as_asked_for_is_told(bench: Bench) -> None:
    for _ in range(10):
        bench.after(5)
    assert len(bench.history.reply([], seconds=20).ends_unix_s) == 4


def test_an_hour_is_kept_and_no_more(bench: Bench) -> None:
    for _ in range(1000):
        bench.after(5)
    assert len(bench.history.reply([], seconds=3600).ends_unix_s) == 720
