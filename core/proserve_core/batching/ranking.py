"""An order over requests that is worked out only as far as it is read.

Thousands may wait while a step takes in a few of them: sorting them all costs more than the rest of a plan.
"""

from collections.abc import Iterator

import numpy as np

from proserve_core.batching.request_columns import Column, Index, Mask

_PART = 256


class Ranking:
    """Groups one after the other; inside a group the largest key first, equal keys in the order given."""

    def __init__(self) -> None:
        self._groups: list[tuple[Index, Column]] = []
        self._names: list[tuple[str, ...]] = []
        self._sorted: dict[int, Index] = {}
        """Small groups by number, in order: they are read twice."""

    def add(self, chosen: Mask, key: Column, *names: str) -> None:
        """Append the chosen positions as a group; `names` are for `group_of`."""
        self.add_places(chosen.nonzero()[0], key, *names)

    def add_places(self, places: Index, key: Column, *names: str) -> None:
        """`add` of positions instead of a mask."""
        if len(places):
            self._groups.append((places, -key.take(places)))
            self._names.append(names)

    def parts(self) -> Iterator[Index]:
        """Positions, most important first, some at a time."""
        for number, (places, key) in enumerate(self._groups):
            if len(places) <= 2 * _PART:
                yield self._in_order(number)
                continue
            while len(places) > 2 * _PART:
                is_near = key <= np.partition(key, _PART)[_PART]
                near = is_near.nonzero()[0]
                yield _sorted(places.take(near), key.take(near))
                far = (~is_near).nonzero()[0]
                places, key = places.take(far), key.take(far)
            yield _sorted(places, key)

    def group_of(self, position: int) -> tuple[int, tuple[str, ...], float]:
        """Number and names of the position's group, and the negative key that it is ordered by there.

        Raises:
            LookupError: the position is in no group.
        """
        for number, (places, key) in enumerate(self._groups):
            found = (places == position).nonzero()[0]
            if len(found):
                return number, self._names[number], float(key[found[0]])
        raise LookupError(f"position {position} is in no group of the ranking")

    def count(self, *names: str) -> int:
        """Positions in groups that have one of these names."""
        return sum(
            len(places)
            for (places, _), mine in zip(self._groups, self._names, strict=True)
            if not set(names).isdisjoint(mine)
        )

    def first(self, count: int) -> Index:
        """Positions below `count` only, most important first."""
        parts = []
        for number, (places, key) in enumerate(self._groups):
            if len(places) <= 2 * _PART:
                in_order = self._in_order(number)
                parts.append(in_order[in_order < count])
            else:
                mine = (places < count).nonzero()[0]
                parts.append(_sorted(places.take(mine), key.take(mine)))
        return np.concatenate(parts) if parts else np.empty(0, dtype=np.intp)

    def _in_order(self, number: int) -> Index:
        """The places of a group."""
        found = self._sorted.get(number)
        if found is None:
            found = self._sorted[number] = _sorted(*self._groups[number])
        return found


def _sorted(places: Index, key: Column) -> Index:
    return places.take(key.argsort(kind="stable"))
