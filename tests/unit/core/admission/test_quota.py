"""Quotas of one tenant, over one replica or several that share a store."""

from hypothesis import given
from hypothesis import strategies as st

from proserve_core.admission.quota import (
    QuotaKind,
    QuotaRefusal,
    Reservation,
    TenantUsage,
    never_fits,
    tokens_to_reserve,
    tokens_used,
)
from proserve_core.admission.shared_count import SharedCount
from proserve_core.objectives import TenantLimits

REQUESTS = TenantLimits(requests_per_minute=3)
TOKENS = TenantLimits(tokens_per_minute=100)
IN_FLIGHT = TenantLimits(max_in_flight=2)


class Store(dict[str, int]):
    """A store that replicas reach one after another."""

    def exchange(self, usage: TenantUsage, limits: TenantLimits, wall_s: float) -> None:
        for count in (*usage.counts(limits, wall_s), *usage.counts_before(limits, wall_s)):
            self.send(count)

    def send(self, count: SharedCount) -> bool:
        sent = count.pending
        self[count.name] = self.get(count.name, 0) + sent
        return count.stored(sent, self[count.name], 0.0)


def ask(
    usage: TenantUsage,
    limits: TenantLimits,
    wall_s: float,
    *,
    tokens: int = 1,
    store: Store | None = None,
    share: int = 1,
) -> Reservation | QuotaRefusal:
    reservation = usage.reserve(tokens, wall_s)
    if store is not None:
        store.exchange(usage, limits, wall_s)
    refusal = usage.decide(reservation, limits, share=share)
    if store is not None:
        store.exchange(usage, limits, wall_s)
    return refusal or reservation


def admitted(usage: TenantUsage, limits: TenantLimits, wall_s: float, **how: object) -> bool:
    return isinstance(ask(usage, limits, wall_s, **how), Reservation)  # type: ignore[arg-type]


def test_requests_are_refused_beyond_the_limit_and_admitted_again_when_it_is_said() -> None:
    usage = TenantUsage("a")
    assert [admitted(usage, REQUESTS, 0.0) for _ in range(4)] == [True, True, True, False]
    refusal = ask(usage, REQUESTS, 30.0)
    assert isinstance(refusal, QuotaRefusal)
    assert (refusal.kind, refusal.limit, refusal.used) == (QuotaKind.REQUESTS, 3, 3)
    # 30 s to the next minute, of which a third has to pass before two of the three are out of sight: 2 + 1 <= 3.
    assert refusal.retry_after_s == 50.0
    assert not admitted(usage, REQUESTS, 79.0)
    assert admitted(usage, REQUESTS, 80.0)


def test_no_edge_of_a_minute_lets_twice_the_limit_through() -> None:
    usage = TenantUsage("a")
    assert [admitted(usage, REQUESTS, 59.0) for _ in range(3)] == [True] * 3
    assert not admitted(usage, REQUESTS, 61.0)


def test_tokens_not_taken_are_free_at_once() -> None:
    usage = TenantUsage("a")
    first = ask(usage, TOKENS, 0.0, tokens=90)
    assert isinstance(first, Reservation)
    assert not admitted(usage, TOKENS, 1.0, tokens=20)
    usage.settle(first, 10, 2.0)
    assert admitted(usage, TOKENS, 2.0, tokens=90)


def test_tokens_beyond_the_estimate_are_charged_to_the_minute_in_which_they_are_known() -> None:
    usage = TenantUsage("a")
    first = ask(usage, TOKENS, 0.0, tokens=10)
    assert isinstance(first, Reservation)
    usage.settle(first, 150, 130.0)
    refusal = ask(usage, TOKENS, 131.0, tokens=10)
    assert isinstance(refusal, QuotaRefusal)
    assert refusal.used == 140


def test_places_in_flight_are_free_when_requests_end_however_long_they_took() -> None:
    usage = TenantUsage("a")
    first, second = ask(usage, IN_FLIGHT, 0.0), ask(usage, IN_FLIGHT, 0.0)
    assert isinstance(first, Reservation)
    assert isinstance(second, Reservation)
    assert not admitted(usage, IN_FLIGHT, 500.0)
    usage.settle(first, 1, 500.0)
    assert admitted(usage, IN_FLIGHT, 500.0)
    assert not admitted(usage, IN_FLIGHT, 500.0)


def test_a_refused_or_abandoned_request_takes_nothing() -> None:
    usage = TenantUsage("a")
    limits = TenantLimits(requests_per_minute=2, tokens_per_minute=10)
    assert admitted(usage, limits, 0.0, tokens=4)
    assert not admitted(usage, limits, 0.0, tokens=7)
    usage.abandon(usage.reserve(6, 0.0))
    assert [use.used for use in usage.uses(limits, 0.0)] == [1, 4]
    assert [admitted(usage, limits, 0.0, tokens=6) for _ in range(2)] == [True, False]


def test_replicas_share_each_limit_exactly() -> None:
    for limits in (REQUESTS, TenantLimits(tokens_per_minute=3), TenantLimits(max_in_flight=3)):
        store, replicas = Store(), [TenantUsage("a"), TenantUsage("a")]
        outcomes = [admitted(replicas[number % 2], limits, 7.0, store=store) for number in range(6)]
        assert outcomes == [True] * 3 + [False] * 3


def test_replicas_that_decide_at_the_same_time_see_each_other() -> None:
    store, replicas = Store(), [TenantUsage("a"), TenantUsage("a")]
    limits = TenantLimits(requests_per_minute=1)
    reservations = [usage.reserve(1, 0.0) for usage in replicas]
    for usage in replicas:
        store.exchange(usage, limits, 0.0)
    decisions = [usage.decide(mine, limits) for usage, mine in zip(replicas, reservations, strict=True)]
    assert [decision is None for decision in decisions] == [True, False]


def test_without_the_store_each_replica_keeps_to_its_part() -> None:
    limits = TenantLimits(requests_per_minute=10)
    usage = TenantUsage("a")
    assert sum(admitted(usage, limits, 0.0, share=4) for _ in range(10)) == 2
    assert admitted(TenantUsage("b"), TenantLimits(requests_per_minute=1), 0.0, share=4), "never a full stop"
    refusal = ask(usage, limits, 0.0, share=4)
    assert isinstance(refusal, QuotaRefusal)
    assert (refusal.limit, refusal.share) == (2, 4)


def test_a_dead_replicas_places_in_flight_come_back() -> None:
    store, dead, alive = Store(), TenantUsage("a"), TenantUsage("a")
    assert all(admitted(dead, IN_FLIGHT, 0.0, store=store) for _ in range(2))
    assert not admitted(alive, IN_FLIGHT, 4.0, store=store)
    # Alive for a while longer: it still holds them in the next epoch.
    store.exchange(dead, IN_FLIGHT, 4.0)
    assert not admitted(alive, IN_FLIGHT, 6.0, store=store)
    assert admitted(alive, IN_FLIGHT, 11.0, store=store)


def test_a_store_that_lost_its_data_is_noticed_and_given_it_again() -> None:
    store, usage = Store(), TenantUsage("a")
    ask(usage, REQUESTS, 0.0, store=store)
    ask(usage, REQUESTS, 0.0, store=store)
    store.clear()
    count = next(count for count in usage.counts(REQUESTS, 0.0) if count.own)
    assert not store.send(count)
    count.forgotten()
    assert store.send(count)
    assert store[count.name] == 2


def test_old_minutes_are_forgotten() -> None:
    usage = TenantUsage("a")
    for minute in range(100):
        reservation = ask(usage, TenantLimits(requests_per_minute=2), minute * 60.0)
        assert isinstance(reservation, Reservation)
        usage.settle(reservation, 1, minute * 60.0)
    assert len(usage._minutes) == 4, "two quotas, in this minute and the one before"


def test_reservation_is_the_estimate_but_never_more_than_the_whole_quota() -> None:
    assert tokens_to_reserve(TOKENS, prompt_tokens=20, expected_output_tokens=30.4) == 50
    assert tokens_to_reserve(TOKENS, prompt_tokens=20, expected_output_tokens=500) == 100
    assert tokens_to_reserve(REQUESTS, prompt_tokens=20, expected_output_tokens=500) == 520


def test_a_prompt_beyond_the_quota_never_fits() -> None:
    assert never_fits(TOKENS, 101)
    assert not never_fits(TOKENS, 100)
    assert not never_fits(REQUESTS, 10**9)


def test_charged_is_what_the_engine_counted_or_may_have_worked_on() -> None:
    assert tokens_used(prompt_tokens=7, estimate=9, output_tokens=5, worked=True) == 12
    assert tokens_used(prompt_tokens=None, estimate=9, output_tokens=5, worked=False) == 14
    assert tokens_used(prompt_tokens=None, estimate=9, output_tokens=0, worked=True) == 9
    assert tokens_used(prompt_tokens=None, estimate=9, output_tokens=0, worked=False) == 0


@given(
    steps=st.lists(
        st.tuples(st.integers(0, 1), st.floats(0, 20), st.integers(1, 60), st.booleans()), min_size=1, max_size=60
    )
)
def test_never_more_than_the_limit_in_any_order_of_replicas(
    steps: list[tuple[int, float, int, bool]],
) -> None:
    """What two replicas admit in the window never exceeds the limits, whatever is refused and settled in between."""
    limits = TenantLimits(requests_per_minute=5, tokens_per_minute=100, max_in_flight=3)
    store, replicas = Store(), [TenantUsage("a"), TenantUsage("a")]
    open_: list[tuple[TenantUsage, Reservation]] = []
    wall_s = 0.0
    for which, after_s, tokens, ends in steps:
        wall_s += after_s
        for usage in replicas:
            store.exchange(usage, limits, wall_s)
        if ends and open_:
            usage, reservation = open_.pop(0)
            usage.settle(reservation, reservation.tokens, wall_s)
            store.exchange(usage, limits, wall_s)
            continue
        answer = ask(replicas[which], limits, wall_s, tokens=tokens, store=store)
        if isinstance(answer, Reservation):
            open_.append((replicas[which], answer))
            for use in replicas[which].uses(limits, wall_s):
                assert use.used <= use.limit + 1e-9
            assert len(open_) <= 3
