"""A number that several replicas add up in a store, as one of them sees it.

A replica keeps what it wants to have in the sum (`own`) apart from what the store has of it (`contributed`). Sending
the difference is all that there is: many changes become one call, what a store that was down missed is sent when it is
back, and a store that lost its data gets everything again. What other replicas have is the rest of the store's sum.

Whether a call arrived whose answer never came is unknown. What it added counts as not arrived and is sent again, what
it gave back counts as arrived and is not: in doubt the sum is too large until its counter ends, and never too small.
"""


class SharedCount:
    """One counter."""

    __slots__ = ("contributed", "life_s", "name", "others", "own", "read_s", "undecided")

    def __init__(self, name: str, *, life_s: float) -> None:
        self.name = name
        """Key in the store."""
        self.life_s = life_s
        """How long the store keeps it."""
        self.own = 0
        self.undecided = 0
        """Part of `own` that may still be given back: other replicas see it, our own decisions don't count it."""
        self.contributed = 0
        self.others = 0
        """Of all other replicas, when the store was last asked."""
        self.read_s = -float("inf")
        """When that was."""

    @property
    def pending(self) -> int:
        """What the store lacks."""
        return self.own - self.contributed

    def decided(self, *, alone: bool) -> int:
        """Of all replicas, or of this one `alone`."""
        decided = self.own - self.undecided
        return decided if alone else decided + self.others

    def stored(self, sent: int, total: int, at_s: float) -> bool:
        """The store took `sent` and has `total`; False: it has less than it was given, so it lost its data."""
        self.contributed += sent
        self.others = max(0, total - self.contributed)
        self.read_s = at_s
        return total >= self.contributed

    def unanswered(self, sent: int) -> None:
        """Nobody knows whether the store took `sent`."""
        self.contributed += min(0, sent)

    def forgotten(self) -> None:
        """The store has nothing of ours any more."""
        self.contributed = 0
