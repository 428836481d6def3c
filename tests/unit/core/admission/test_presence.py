"""A number over all replicas, epoch by epoch of the wall's clock, whoever asks in whatever order."""

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from proserve_core.admission.presence import EPOCH_S, Presence


class Store:
    """Drops a counter some time after it was made, whatever the wall's clock says."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self._kept: dict[str, tuple[int, float]] = {}

    def exchange(self, presence: Presence, wall_s: float) -> int:
        """What all replicas have, as the one that asks sees it."""
        counts = presence.counts(wall_s)
        for count in counts:
            sent = count.pending
            total, end_s = self._kept.get(count.name, (0, 0.0))
            if end_s <= self.now_s:
                total, end_s = 0, self.now_s + count.life_s
            self._kept[count.name] = (total + sent, end_s)
            assert count.stored(sent, total + sent, wall_s), "the store lost nothing"
        return counts[0].decided(alone=False)


def holding(own: int) -> Presence:
    presence = Presence("x")
    presence.own = own
    return presence


def test_batch_of_the_last_epoch_is_not_counted_twice() -> None:
    store, presence = Store(), holding(60)
    edge_s = 7 * EPOCH_S
    assert store.exchange(presence, edge_s - 0.001) == 60
    assert store.exchange(presence, edge_s + 0.001) == 60
    assert store.exchange(presence, edge_s - 0.001) == 60


def test_store_that_lost_everything_is_given_an_old_epoch_again_as_well() -> None:
    store, presence = Store(), holding(60)
    edge_s = 7 * EPOCH_S
    for wall_s in (edge_s - 0.001, edge_s + 0.001):
        store.exchange(presence, wall_s)
    store = Store()
    presence.forgotten()
    assert [store.exchange(presence, edge_s + late_s) for late_s in (0.002, -0.001)] == [60, 60]


@settings(deadline=None)
@given(seed=st.integers(0, 2**32 - 1), step_back_s=st.floats(0.0, 2 * EPOCH_S))
def test_clock_that_steps_back_by_two_epochs_changes_no_count(seed: int, step_back_s: float) -> None:
    draw = random.Random(seed)
    store, presences, ahead_s = Store(), [holding(2), holding(3)], 20 * EPOCH_S
    for second in range(60):
        if second == 30:
            ahead_s -= step_back_s
        store.now_s += 1.0
        for presence in presences:
            late_s = draw.choice([0.0, 0.2])
            total = store.exchange(presence, store.now_s + ahead_s - late_s)
            assert second < 2 * EPOCH_S or total == 5


def test_replica_that_died_counts_for_two_epochs_at_most() -> None:
    store, lives, died = Store(), holding(2), holding(3)
    totals = []
    for second in range(int(5 * EPOCH_S)):
        store.now_s = float(second)
        if second < 2 * EPOCH_S:
            store.exchange(died, store.now_s)
        totals.append(store.exchange(lives, store.now_s))
    assert totals[int(2 * EPOCH_S) - 1] == 5
    assert totals[int(4 * EPOCH_S) :] == [2] * int(EPOCH_S)
