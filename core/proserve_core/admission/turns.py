"""Turns by tokens: of those that wait, the one that was given the fewest is next.

Source: the counters of Virtual Token Counter (`tenant_share`). Who comes back after a time without requests starts at
the least count of those that wait, so being idle gains no credit.

Memory: one counter for each that has taken more than the least of those that wait.
"""


class Turns:
    """Tokens given, by name."""

    def __init__(self) -> None:
        self._waiting: dict[str, int] = {}
        """Requests by name."""
        self._served: dict[str, float] = {}

    def __len__(self) -> int:
        """Names with requests that wait."""
        return len(self._waiting)

    def arrived(self, name: str) -> None:
        """One more request waits."""
        waiting, served = self._waiting, self._served
        if name not in waiting:
            floor = min([served.get(other, 0.0) for other in waiting], default=0.0)
            served[name] = max(served.get(name, 0.0), floor)
            # Who has no more than the floor would start there in any case.
            for other in [other for other, tokens in served.items() if tokens < floor and other not in waiting]:
                del served[other]
        waiting[name] = waiting.get(name, 0) + 1

    def left(self, name: str) -> None:
        """A request does not wait any more."""
        self._waiting[name] -= 1
        if not self._waiting[name]:
            del self._waiting[name]
        if not self._waiting:
            # Nobody waited in vain, so nobody is owed anything.
            self._served.clear()

    def gave(self, name: str, tokens: float) -> None:
        """A request gets an engine; `left` follows."""
        self._served[name] += tokens

    def served(self) -> dict[str, float]:
        """Tokens given, as they are now."""
        return dict(self._served)

    def next(self) -> str:
        """Whose turn it is; somebody must wait."""
        return min(self._waiting, key=lambda name: (self._served[name], name))
