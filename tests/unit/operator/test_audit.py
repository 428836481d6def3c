"""A watch that shows nothing any more is noticed, and what it missed is looked at."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from fake_kube import FakeKube, Object
from proserve_operator.audit import Audit
from proserve_operator.kube_client import KubeError
from proserve_operator.store import Store


def service(name: str, namespace: str = "default", **changes: Any) -> Object:
    return {"kind": "Service", "metadata": {"name": name, "namespace": namespace}, **changes}


class Bench:
    def __init__(self, *namespaces: str) -> None:
        self.kube, self.store = FakeKube(), Store()
        self.fixed: list[tuple[str, str | None]] = []
        self.missed: list[str] = []
        self.audit = Audit(
            self.kube, self.store, namespaces=namespaces, managed_kinds=("Service",), own_kinds=(),
            fix=self._fix, on_missed=self.missed.append,
        )  # fmt: skip

    def _fix(self, kind: str, event: str | None, body: Object) -> None:
        self.fixed.append((body["metadata"]["name"], event))
        self.store.remove(kind, ("default", body["metadata"]["name"])) if event else self.store.put(kind, body)

    def shown(self, body: Object) -> None:
        """The watch shows it."""
        self.store.put("Service", self.kube.put(body))

    async def round(self) -> None:
        if await self.audit.look():
            await self.audit.settle()


async def test_watch_that_shows_everything_is_alive() -> None:
    bench = Bench()
    bench.shown(service("a"))
    await bench.round()
    assert (bench.fixed, bench.missed, bench.audit.dead) == ([], [], [])


async def test_event_that_is_still_on_its_way_is_not_missed() -> None:
    bench = Bench()
    late = bench.kube.put(service("a"))
    assert await bench.audit.look()
    bench.store.put("Service", late)
    await bench.audit.settle()
    assert bench.missed == []


async def test_what_was_missed_is_looked_at() -> None:
    bench = Bench()
    bench.shown(service("changed"))
    bench.shown(service("gone"))
    bench.kube.put(service("changed", spec={}))
    bench.kube.put(service("new"))
    del bench.kube.objects["Service", "default", "gone"]
    await bench.round()
    assert sorted(bench.fixed, key=str) == [("changed", None), ("gone", "DELETED"), ("new", None)]
    assert bench.missed == ["Service"] * 3


async def test_watch_that_misses_things_again_and_again_is_dead() -> None:
    bench = Bench()
    bench.kube.put(service("a"))
    await bench.round()
    assert bench.audit.dead == []
    bench.kube.put(service("b"))
    await bench.round()
    assert bench.audit.dead == ["Service"]
    await bench.round()
    assert bench.audit.dead == []


async def test_namespace_that_may_not_be_listed_hinders_no_other() -> None:
    bench = Bench("gone", "default")
    bench.shown(service("seen", "gone"))
    bench.kube.forbidden.add("gone")
    bench.kube.put(service("new"))
    await bench.round()
    assert bench.fixed == [("new", None)]


@pytest.mark.parametrize(
    ("namespaces", "forbidden", "unlisted", "dead"),
    [
        ((), {None}, 1, ["Service"]),
        # May be gone, and would be so after each start.
        (("gone", "default"), {"gone"}, 1, []),
        (("gone",), {"gone"}, 1, []),
    ],
)
async def test_operator_that_may_list_nothing_is_as_deaf_as_a_dead_watch(
    namespaces: tuple[str, ...], forbidden: set[str | None], unlisted: int, dead: list[str]
) -> None:
    bench = Bench(*namespaces)
    bench.shown(service("a", *namespaces[:1]))
    bench.kube.forbidden = forbidden
    await bench.round()
    assert (bench.audit.unlisted, bench.audit.dead) == (unlisted, [])
    await bench.round()
    assert (bench.audit.unlisted, bench.audit.dead) == (unlisted, dead)
    assert bench.missed == []
    bench.kube.forbidden = set()
    await bench.round()
    assert (bench.audit.unlisted, bench.audit.dead) == (0, [])


async def test_namespace_of_which_the_rest_may_not_be_listed_is_not_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench("team")
    bench.kube.put(service("first", "team"))
    bench.shown(service("second", "team"))

    async def versions(kind: str, namespace: str | None, *, managed: bool) -> AsyncIterator[Object]:
        yield bench.kube.objects[kind, str(namespace), "first"]["metadata"]
        raise KubeError(403, "forbidden")

    monkeypatch.setattr(bench.kube, "versions", versions)
    await bench.round()
    assert (bench.fixed, bench.missed) == ([], [])
