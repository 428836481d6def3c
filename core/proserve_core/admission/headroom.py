"""Headroom: the share of a pool's engine time that a class may count on at any load, and who uses it.

Source: our study of headroom (docs/admission.md). `Entitlement`: while a class has used less than its share
lately, its requests weigh as much more as they need to be served; nothing is kept free, so there is nothing to give
back when the class is quiet. `Reserve`: its share of engine time, and of KV blocks, is closed to lighter classes, used
or not, for operators who have sold isolation. In both modes requests wait in gain order first: a share kept in front of
an arrival-order queue destroys the light classes.

Engine time is that of the work itself, prompt and output, as the latency model predicts it; a step's constant is not in
it but in the capacity, which is what it leaves. Sums forget with `MEMORY_S`.
"""

import math
from collections.abc import Iterable, Mapping

import msgspec

from proserve_core.objectives import HeadroomMode, PriorityClass

MEMORY_S = 3.0
"""Two to three TTFTs: as long as a class may be above its share before it is one request among others again."""


class HeadroomUse(msgspec.Struct, frozen=True, kw_only=True):
    """One class in one pool, as shares of the pool's engine time of the last seconds."""

    priority_class: str
    mode: HeadroomMode | None
    """None: it has no headroom, but may use that of others."""
    held: float
    """What it may count on."""
    used: float
    """What its requests were given."""
    lent: float
    """Of what is held and not used, what others used. `Reserve` lends to heavier classes only."""
    borrowed: float
    """Used beyond what is held."""


class _Decayed:
    """A sum that forgets."""

    __slots__ = ("_at_s", "_sum")

    def __init__(self) -> None:
        self._sum = 0.0
        self._at_s = 0.0

    def at(self, now_s: float) -> float:
        if now_s > self._at_s:
            self._sum *= math.exp((self._at_s - now_s) / MEMORY_S)
            self._at_s = now_s
        return self._sum

    def add(self, amount: float, now_s: float) -> None:
        self._sum = self.at(now_s) + amount


class HeadroomBook:
    """Engine time that the classes of one pool are given."""

    def __init__(self, classes: Iterable[PriorityClass] = ()) -> None:
        self._classes: Mapping[str, PriorityClass] = {}
        self._claimed: dict[str, _Decayed] = {}
        """What was given, and what entitled requests that still wait will be."""
        self._given: dict[str, _Decayed] = {}
        self._capacity = 1.0
        self.set_classes(classes)

    def set_classes(self, classes: Iterable[PriorityClass]) -> None:
        """Replace the classes; what was used stays known."""
        self._classes = {item.name: item for item in classes}
        self._claimed = {name: self._claimed.get(name) or _Decayed() for name in self._classes}
        self._given = {name: self._given.get(name) or _Decayed() for name in self._classes}
        self.active = any(item.headroom is not None for item in self._classes.values())
        """Whether anything is held at all."""
        self.reserves = any(self._held(name, HeadroomMode.RESERVE) > 0 for name in self._classes)
        """Whether anything is kept free."""

    def use_capacity(self, engine_s_per_s: float) -> None:
        """Engine time that the pool's engines have for work, per second."""
        self._capacity = max(engine_s_per_s, 1e-9)

    def entitled(self, priority_class: str, engine_s: float, now_s: float) -> bool:
        """A request of the class arrived; whether it is within the class's entitlement. If so, it counts as served."""
        claimed = self._claimed.get(priority_class)
        if claimed is None:
            return False
        held = self._held(priority_class, HeadroomMode.ENTITLEMENT)
        if claimed.at(now_s) >= held * self._capacity * MEMORY_S:
            return False
        claimed.add(engine_s, now_s)
        return True

    def given(self, priority_class: str, engine_s: float, now_s: float, *, entitled: bool) -> None:
        """A request of the class goes to an engine."""
        given = self._given.get(priority_class)
        if given is not None:
            given.add(engine_s, now_s)
            if not entitled:
                self._claimed[priority_class].add(engine_s, now_s)

    def kept_from(self, priority_class: str) -> float:
        """Share that is kept free for heavier classes."""
        own = self._classes.get(priority_class)
        if own is None:
            return 0.0
        heavier = [name for name, item in self._classes.items() if item.weight > own.weight]
        return sum(self._held(name, HeadroomMode.RESERVE) for name in heavier)

    def closed_to(self, priority_class: str, now_s: float) -> bool:
        """Whether the class and those that are not heavier have used all that is not kept from them."""
        kept = self.kept_from(priority_class)
        if kept <= 0:
            return False
        own = self._classes[priority_class].weight
        used = sum(self._given[name].at(now_s) for name, item in self._classes.items() if item.weight <= own)
        return used >= (1 - kept) * self._capacity * MEMORY_S

    def heavier_than(self, priority_class: str) -> list[str]:
        """Classes with more weight."""
        own = self._classes.get(priority_class)
        return [] if own is None else [name for name, item in self._classes.items() if item.weight > own.weight]

    def uses(self, now_s: float) -> list[HeadroomUse]:
        """Every class, as it stands."""
        whole = self._capacity * MEMORY_S
        used = {name: given.at(now_s) / whole for name, given in self._given.items()}
        held = {name: self._held(name) for name in self._classes}
        borrowed = {name: max(0.0, used[name] - held[name]) for name in self._classes}
        idle = {name: max(0.0, held[name] - used[name]) for name in self._classes}
        # What is beyond everybody's headroom belongs to nobody and is used first.
        nobodys = max(0.0, 1 - sum(held.values()))
        lent = min(sum(idle.values()), max(0.0, sum(borrowed.values()) - nobodys))
        all_idle = sum(idle.values())
        return [
            HeadroomUse(
                priority_class=name,
                mode=None if item.headroom is None else item.headroom.mode,
                held=held[name],
                used=used[name],
                lent=lent * idle[name] / all_idle if all_idle > 0 else 0.0,
                borrowed=borrowed[name],
            )
            for name, item in self._classes.items()
        ]

    def _held(self, priority_class: str, mode: HeadroomMode | None = None) -> float:
        headroom = self._classes[priority_class].headroom
        return 0.0 if headroom is None or mode not in (None, headroom.mode) else headroom.percent / 100
