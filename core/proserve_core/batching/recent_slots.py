"""Numbers for keys, a limited amount of them: who was not asked for longest gives its number to somebody new."""

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)


class RecentSlots(Generic[Key]):
    """Slots 0, 1, 2, ... for keys.

    A key that is in use keeps its slot; when all `limit` slots are in use, there are more of them.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._slots: OrderedDict[Key, int] = OrderedDict()
        self._uses: list[int] = []

    def __len__(self) -> int:
        """How many slots there are: one more than the largest ever given."""
        return len(self._uses)

    def slot(self, key: Key) -> int | None:
        """The key's slot; it now is the one asked for last."""
        slot = self._slots.get(key)
        if slot is not None:
            self._slots.move_to_end(key)
        return slot

    def give(self, key: Key) -> tuple[int, Key | None]:
        """A slot for a new key, and who had it before."""
        previous: Key | None = None
        slot = len(self._uses)
        if slot >= self._limit:
            previous = next((old for old, number in self._slots.items() if not self._uses[number]), None)
        if previous is None:
            self._uses.append(0)
        else:
            slot = self._slots.pop(previous)
        self._slots[key] = slot
        return slot, previous

    def use(self, slot: int) -> None:
        """One more user of the slot."""
        self._uses[slot] += 1

    def leave(self, slot: int) -> None:
        """One user less."""
        self._uses[slot] -= 1

    def users(self, slot: int) -> int:
        return self._uses[slot]

    def in_use(self) -> list[int]:
        """Slots that have users, in order."""
        return [slot for slot, users in enumerate(self._uses) if users]

    def items(self) -> list[tuple[Key, int]]:
        """Keys and slots, the one asked for last at the end."""
        return list(self._slots.items())
