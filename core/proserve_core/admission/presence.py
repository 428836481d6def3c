"""How many of something there are over all replicas right now, such that a dead replica's part goes by itself.

Time is cut into epochs. A replica writes its number into the counter of the running epoch and, towards its end, of the
next one, and reads that of the running one: in it is everybody who was alive at the end of the epoch before or joined
since. A replica that died writes into no later epoch, so its part is gone after two epochs at most. Replicas must write
once in each epoch's second half. No counter is written to for as long as a store keeps it.

Counters of the last epochs are kept: somebody may ask with a time from before the epoch's edge, and the wall's clock
may step back. A new counter of an old epoch would give the store everything a second time.
"""

from proserve_core.admission.shared_count import SharedCount

EPOCH_S = 5.0
_KEPT_EPOCHS = 2
_LIFE_EPOCHS = 3 + 2 * _KEPT_EPOCHS
"""A counter may be made half an epoch before its own and be used until the clock has come back to the end of it."""


class Presence:
    """This replica's part of one such number, and the others'."""

    __slots__ = ("_counts", "_epoch_s", "_name", "own", "undecided")

    def __init__(self, name: str, *, epoch_s: float = EPOCH_S) -> None:
        self._name = name
        self._epoch_s = epoch_s
        self._counts: dict[int, SharedCount] = {}
        self.own = 0
        self.undecided = 0
        """As of `SharedCount`."""

    def counts(self, wall_s: float) -> list[SharedCount]:
        """The counter to read, and the next epoch's when it is time; all are to be sent."""
        epoch, passed_s = divmod(wall_s, self._epoch_s)
        number = int(epoch)
        for other in [each for each in self._counts if abs(each - number) > _KEPT_EPOCHS]:
            del self._counts[other]
        running = self._count(number)
        return [running] if passed_s < self._epoch_s / 2 else [running, self._count(number + 1)]

    def forgotten(self) -> None:
        """The store has nothing of ours any more."""
        for count in self._counts.values():
            count.forgotten()

    def _count(self, epoch: int) -> SharedCount:
        count = self._counts.get(epoch)
        if count is None:
            count = self._counts[epoch] = SharedCount(f"{self._name}/{epoch}", life_s=_LIFE_EPOCHS * self._epoch_s)
        count.own, count.undecided = self.own, self.undecided
        return count
