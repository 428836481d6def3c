"""Following an API server whose answers are scripted, on simulated time."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

import pytest

from proserve_gateway.configuration import kube_watch
from proserve_gateway.configuration.kube_watch import KubeWatch

pytestmark = pytest.mark.looptime

LISTED = json.dumps({"metadata": {"resourceVersion": "1"}, "items": []}).encode()
EXPIRED = json.dumps({"message": "too old resource version"}).encode()
FORBIDDEN = json.dumps({"message": "things is forbidden"}).encode()
EVENT = json.dumps({"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "2"}}}).encode() + b"\n"
MINUTE_S = 60.0


class Reply:
    """One answer: a body at once, or a stream that lasts."""

    def __init__(self, status: int, *chunks: bytes, lasts_s: float = 0.0) -> None:
        self.status = status
        self._chunks = chunks
        self._lasts_s = lasts_s
        self.response = self.content = self

    async def read(self) -> bytes:
        return b"".join(self._chunks)

    async def iter_any(self) -> AsyncIterator[bytes]:
        for chunk in self._chunks:
            yield chunk
        await asyncio.sleep(self._lasts_s)

    def close(self) -> None:
        """Nothing is open."""


class Server:
    """Answers lists and watches, and counts them."""

    def __init__(self, *, lists: Iterator[Reply], watches: Iterator[Reply]) -> None:
        self._answers = {"list": lists, "watch": watches}
        self.asked = {"list": 0, "watch": 0}

    async def request(self, _api: object, _path: str, query: dict[str, str], _timeout: object) -> Reply:
        verb = "watch" if "watch" in query else "list"
        self.asked[verb] += 1
        await asyncio.sleep(0.001)
        return next(self._answers[verb])


class Heard:
    """A follower that keeps what it is told."""

    def __init__(self) -> None:
        self.lists = 0
        self.rights: list[bool] = []
        """Whether they are missing, as it was told."""

    def listed(self, objects: Sequence[Any]) -> None:
        self.lists += 1

    def changed(self, event: str, body: Any) -> None:
        raise AssertionError(f"{event} of {body} is in no script")

    def forbidden(self, *, refused: bool) -> None:
        self.rights.append(refused)


def always(status: int, *chunks: bytes, lasts_s: float = 0.0) -> Iterator[Reply]:
    while True:
        yield Reply(status, *chunks, lasts_s=lasts_s)


async def followed(server: Server, monkeypatch: pytest.MonkeyPatch, *, for_s: float = MINUTE_S) -> Heard:
    """What a follower has heard after this time."""
    monkeypatch.setattr(kube_watch, "_request", server.request)
    heard = Heard()
    api: Any = None
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(KubeWatch(api, "/things", heard).run(), for_s)
    return heard


async def test_watches_that_end_at_once_are_begun_ever_more_rarely(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server(lists=always(200, LISTED), watches=always(200))
    await followed(server, monkeypatch)
    # Pauses of 0.2 s, doubled up to 5 s, each give or take a quarter.
    assert 12 <= server.asked["watch"] <= 25


async def test_watches_that_last_or_bring_something_are_begun_anew_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    lasting = Server(lists=always(200, LISTED), watches=always(200, lasts_s=2.0))
    await followed(lasting, monkeypatch)
    assert lasting.asked == {"list": 1, "watch": 30}
    busy = Server(lists=always(200, LISTED), watches=always(200, EVENT, lasts_s=0.5))
    await followed(busy, monkeypatch)
    assert busy.asked["watch"] > 100


async def test_quiet_watch_is_told_as_followed_again_while_it_lasts(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    watches = iter([Reply(500, EXPIRED), Reply(200, lasts_s=1e6)])
    with caplog.at_level("INFO"):
        await followed(Server(lists=always(200, LISTED), watches=watches), monkeypatch, for_s=3.0)
    said = [record.getMessage() for record in caplog.records]
    assert said == ["/things is not followed: ClusterError: 500: too old resource version", "/things is followed again"]


async def test_version_that_is_forgotten_once_is_listed_anew_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    watches = iter([Reply(410, EXPIRED), Reply(200, lasts_s=1e6)])
    server = Server(lists=always(200, LISTED), watches=watches)
    heard = await followed(server, monkeypatch, for_s=0.1)
    assert (heard.lists, server.asked["watch"]) == (2, 2)


async def test_versions_that_are_always_forgotten_are_asked_for_ever_more_rarely(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server = Server(lists=always(200, LISTED), watches=always(410, EXPIRED))
    await followed(server, monkeypatch)
    assert 12 <= server.asked["list"] <= 25


async def test_list_that_is_always_refused_as_too_old_is_asked_for_ever_more_rarely(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    server = Server(lists=always(410, EXPIRED), watches=iter(()))
    await followed(server, monkeypatch)
    # Each time in pages and as a whole.
    assert 24 <= server.asked["list"] <= 50
    assert "410: too old resource version" in caplog.text


async def test_pages_that_are_forgotten_half_way_are_replaced_by_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    page = json.dumps({"metadata": {"resourceVersion": "1", "continue": "next"}, "items": [{"half": True}]}).encode()
    lists = iter([Reply(200, page), Reply(410, EXPIRED), Reply(200, LISTED)])
    server = Server(lists=lists, watches=always(200, lasts_s=1e6))
    heard = await followed(server, monkeypatch, for_s=0.1)
    assert (heard.lists, server.asked["list"]) == (1, 3)


@pytest.mark.parametrize("failures_before", [0, 1, 4, 5, 20])
async def test_list_that_is_forbidden_for_seconds_is_told_once_and_still_asked_for(
    monkeypatch: pytest.MonkeyPatch, failures_before: int
) -> None:
    answers = [Reply(500, b"") for _ in range(failures_before)] + [Reply(403, FORBIDDEN) for _ in range(7)]
    server = Server(lists=iter([*answers, Reply(200, LISTED)]), watches=always(200, lasts_s=1e6))
    heard = await followed(server, monkeypatch, for_s=5 * MINUTE_S)
    assert (heard.rights, heard.lists, server.asked["list"]) == ([True, False], 1, failures_before + 8)


async def test_list_that_is_forbidden_for_moments_is_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    refused = [Reply(403, FORBIDDEN) for _ in range(4)]
    server = Server(
        lists=iter([*refused, Reply(500, b""), *refused, Reply(200, LISTED)]), watches=always(200, lasts_s=1e6)
    )
    heard = await followed(server, monkeypatch, for_s=2 * MINUTE_S)
    assert (heard.rights, heard.lists) == ([], 1)


async def test_right_that_is_taken_away_later_is_told_and_what_was_listed_stays(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    refused = [Reply(403, FORBIDDEN) for _ in range(7)]
    watches = iter([Reply(200, EVENT), *refused, Reply(200, lasts_s=1e6)])
    server = Server(lists=iter([Reply(200, LISTED)]), watches=watches)
    heard = await followed(server, monkeypatch)
    assert (heard.rights, heard.lists) == ([True, False], 1)
