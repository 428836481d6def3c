"""Secrets of a cluster: which are kept, and whose word counts when the list, the watch and a question overlap."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from typing import Any, cast

import pytest

from proserve_core.resources import Resources
from proserve_core.resources.live import DocumentKey, settle
from proserve_gateway.configuration import kube_watch
from proserve_gateway.configuration import kubernetes as configuration_kubernetes
from proserve_gateway.configuration.kube_watch import ClusterError
from proserve_gateway.configuration.kubernetes import SECRETS_AT_ONCE, TOGETHER_S, KubernetesSource, _Kind
from resource_builders import Data, engine_pool, keyed_tenant, priority_class

KEY = ("team", "keys")
LIMIT_S = 30.0


def in_namespace(data: Data, namespace: str = "team") -> Data:
    return {**data, "metadata": {**data["metadata"], "namespace": namespace}}


def stored(text: str = "b2xk", *, kind: str = "Opaque") -> Data:
    """A Secret as the API server has it."""
    return {"metadata": {"namespace": "team", "name": "keys"}, "type": kind, "data": {"alice": text}}


class Bench:
    """A source of which a tenant names one Secret, and the API server that has it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.source = KubernetesSource(namespaces=("team", "other"))
        self.source.replace("Tenant", "team", [in_namespace(keyed_tenant("alice"))])
        self.body: Data | None = stored()
        self.meanwhile: Callable[[], object] = lambda: None
        """Happens while the Secret is asked for, after the API server has read it."""
        self.asked = 0
        monkeypatch.setattr(configuration_kubernetes, "get", self._get)

    async def _get(self, _api: object, path: str) -> Data | None:
        assert path == "/api/v1/namespaces/team/secrets/keys"
        self.asked += 1
        body = self.body
        await asyncio.sleep(0)
        self.meanwhile()
        return body

    async def fetch(self) -> bool:
        return await self.source._fetch_secrets(cast(Any, None))

    @property
    def kept(self) -> Data | None:
        """The entries of the Secret, as they count."""
        body = self.source._objects.get("Secret", {}).get(KEY)
        return None if body is None else body.get("data")

    @property
    def said(self) -> list[str]:
        """What is wrong with the tenant."""
        settled = settle(dict(self.source._documents()), {})
        return [str(error) for error in settled.problems[DocumentKey("Tenant", "team", "alice")]]


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(monkeypatch)


async def test_secret_of_another_type_gives_no_keys_and_the_log_says_what_to_do(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.body = stored(kind="example.com/key")
    assert await bench.fetch()
    assert bench.kept is None
    (line,) = [record.getMessage() for record in caplog.records]
    assert "Secret team/keys" in line
    assert "'example.com/key'" in line
    assert "delete it and make it anew with type Opaque" in line
    # So does the tenant's condition, also after a list, which has Secrets of one type only.
    for _ in range(2):
        (said,) = [line for line in bench.said if "secretKeyRef" in line]
        assert "(Secret team/keys) has type 'example.com/key'" in said
        assert "delete it and make it anew with type Opaque" in said
        bench.source.replace("Secret", "team", [])
    # It is asked for once; made anew, it comes by the watch.
    assert await bench.fetch()
    assert bench.asked == 1
    bench.source.change("Secret", stored("bmV3"), gone=False)
    assert bench.kept == {"alice": "bmV3"}


async def test_secret_is_kept_when_another_namespace_is_listed_while_it_is_asked_for(bench: Bench) -> None:
    bench.meanwhile = lambda: bench.source.replace("Secret", "other", [])
    assert await bench.fetch()
    assert bench.kept == {"alice": "b2xk"}


async def test_secret_that_is_deleted_while_it_is_asked_for_stays_deleted(bench: Bench) -> None:
    bench.meanwhile = lambda: bench.source.change("Secret", stored(), gone=True)
    assert await bench.fetch()
    assert bench.kept is None


async def test_secret_that_a_list_no_longer_has_while_it_is_asked_for_stays_deleted(bench: Bench) -> None:
    bench.meanwhile = lambda: bench.source.replace("Secret", "team", [])
    assert await bench.fetch()
    assert bench.kept is None


async def test_secret_that_changes_while_it_is_asked_for_keeps_the_change(bench: Bench) -> None:
    bench.meanwhile = lambda: bench.source.change("Secret", stored("bmV3"), gone=False)
    assert await bench.fetch()
    assert bench.kept == {"alice": "bmV3"}


async def test_secret_that_could_not_be_asked_for_is_asked_for_again(bench: Bench) -> None:
    def refuse() -> None:
        raise ClusterError("the API server does not answer")

    bench.meanwhile = refuse
    assert not await bench.fetch()
    bench.meanwhile = lambda: None
    assert await bench.fetch()
    assert bench.kept == {"alice": "b2xk"}


async def test_many_secrets_are_asked_for_at_once_but_not_all(monkeypatch: pytest.MonkeyPatch) -> None:
    source = KubernetesSource(namespaces=("team",))
    tenants = [
        in_namespace(keyed_tenant(f"tenant-{number}", secret=f"keys-{number}", key="alice")) for number in range(100)
    ]
    source.replace("Tenant", "team", tenants)
    under_way: set[str] = set()
    most = 0

    async def get(_api: object, path: str) -> Data:
        nonlocal most
        under_way.add(path)
        most = max(most, len(under_way))
        # As long as others can begin meanwhile.
        for _ in range(10):
            await asyncio.sleep(0)
        under_way.remove(path)
        if path.endswith("/keys-7"):
            raise ClusterError("the API server does not answer")
        body = stored()
        return {**body, "metadata": {**body["metadata"], "name": path.rpartition("/")[2]}}

    monkeypatch.setattr(configuration_kubernetes, "get", get)
    assert not await source._fetch_secrets(cast(Any, None))
    assert most == SECRETS_AT_ONCE
    # One that fails hinders no other.
    assert {name for _, name in source.secrets_kept} == {f"keys-{number}" for number in range(100)} - {"keys-7"}


async def test_of_a_certificate_only_who_signed_it_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    body = stored(kind="kubernetes.io/tls")
    body["data"] = {"tls.crt": "YQ==", "tls.key": "Yg==", "ca.crt": "Yw=="}

    async def get(*_: object) -> Data:
        return body

    monkeypatch.setattr(configuration_kubernetes, "get", get)
    source = KubernetesSource(namespaces=("team",))
    pool = in_namespace(engine_pool(engine={"tls": {"secretName": "keys"}}))
    source.replace("EnginePool", "team", [pool])
    assert await source._fetch_secrets(cast(Any, None))
    kept = source._objects["Certificate"]
    assert kept[KEY]["data"] == {"ca.crt": "Yw=="}
    body["data"]["ca.crt"] = "ZA=="
    source.change("Certificate", body, gone=False)
    assert kept[KEY]["data"] == {"ca.crt": "ZA=="}
    source.replace("Certificate", "team", [body])
    assert source._objects["Certificate"][KEY]["data"] == {"ca.crt": "ZA=="}
    source.replace("EnginePool", "team", [])
    assert await source._fetch_secrets(cast(Any, None))
    assert source._objects["Certificate"] == {}


class Taker:
    """A gateway without pools, as a source sees it."""

    def __init__(self) -> None:
        self.configured = asyncio.Event()
        self.lists_missing = 0

    def configure(self, resources: Resources, engines: object) -> None:
        assert resources.engine_pools == ()
        self.configured.set()

    def refused(self, error: str) -> None:
        raise AssertionError(error)

    def left_out(self, problems: object) -> None:
        assert problems == {}

    def unlisted(self, lists: int) -> None:
        self.lists_missing = lists


async def test_nothing_is_in_force_before_everything_is_listed() -> None:
    """A gateway that is ready on half of the resources refuses clients that it will know a moment later."""
    source, taker = KubernetesSource(namespaces=("team",)), Taker()
    pools, secrets = (_Kind(source, kind, "team") for kind in ("EnginePool", "Secret"))
    taking = asyncio.create_task(source._take_changes(cast(Any, None), taker, (pools, secrets)))
    pools.listed([])
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(taker.configured.wait(), 10 * TOGETHER_S)
    secrets.listed([])
    await asyncio.wait_for(taker.configured.wait(), 30)
    taking.cancel()
    await asyncio.wait({taking})


def test_what_has_no_effect_where_no_request_waits_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    documents = {
        DocumentKey("PriorityClass", "", "high"): priority_class("high", headroom={"percent": 10}),
        DocumentKey("EnginePool", "default", "tiny"): engine_pool(),
    }
    settled = settle(documents, {})
    KubernetesSource._tell_problems(None, settled)
    KubernetesSource._tell_problems(settled, settled)
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith("spec.headroom of high has no effect in pools where no request waits (tiny)")


class Cluster:
    """An empty API server that refuses some lists, by parts of their paths."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *forbidden: str) -> None:
        self.forbidden = forbidden
        monkeypatch.setattr(kube_watch, "_request", self._request)

    async def _request(self, _api: object, path: str, query: dict[str, str], _timeout: object) -> "Cluster.Reply":
        if any(part in path for part in self.forbidden):
            return self.Reply(403, {"message": "forbidden"})
        if "watch" in query:
            return self.Reply(200, {})
        return self.Reply(200, {"metadata": {"resourceVersion": "1"}, "items": []})

    class Reply:
        """What a list is answered, or a watch in which nothing happens."""

        def __init__(self, status: int, content: Data) -> None:
            self.status = status
            self._content = content
            self.response = self.content = self

        async def read(self) -> bytes:
            return json.dumps(self._content).encode()

        async def iter_any(self) -> AsyncIterator[bytes]:
            await asyncio.Event().wait()
            yield b""

        def close(self) -> None:
            """Nothing is open."""


@contextlib.asynccontextmanager
async def following(*namespaces: str) -> AsyncIterator[Taker]:
    """A gateway that follows these namespaces."""
    taker = Taker()
    source = KubernetesSource(namespaces=namespaces, api=cast(Any, object()))
    task = asyncio.create_task(source.follow(taker))
    try:
        yield taker
    finally:
        task.cancel()
        await asyncio.wait({task})


@pytest.mark.parametrize("forbidden", [(), ("/namespaces/gone/",)])
async def test_namespace_without_the_right_to_list_does_not_keep_the_gateway_from_starting(
    monkeypatch: pytest.MonkeyPatch, forbidden: tuple[str, ...]
) -> None:
    Cluster(monkeypatch, *forbidden)
    monkeypatch.setattr(kube_watch, "FIRST_PAUSE_S", 0.001)
    async with following("team", "gone") as taker:
        await asyncio.wait_for(taker.configured.wait(), LIMIT_S)


@pytest.mark.looptime
@pytest.mark.parametrize(
    ("namespaces", "forbidden", "unlisted"),
    [
        (("team",), ("/namespaces/team/",), 5),
        (("team", "other"), ("/namespaces/",), 10),
        (("team", "other"), ("/namespaces/other/secrets",), 2),
        (("team", "other"), ("/namespaces/other/", "/priorityclasses"), 6),
        ((), ("/secrets",), 2),
    ],
)
async def test_gateway_without_rights_does_not_become_ready(
    monkeypatch: pytest.MonkeyPatch, namespaces: tuple[str, ...], forbidden: tuple[str, ...], unlisted: int
) -> None:
    """It would take the place of one that knows all tenants, and refuse their keys."""
    Cluster(monkeypatch, *forbidden)
    async with following(*namespaces) as taker:
        await asyncio.sleep(60)
        assert (taker.configured.is_set(), taker.lists_missing) == (False, unlisted)


async def test_gateway_becomes_ready_when_it_is_given_its_rights(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(monkeypatch, "/namespaces/team/")
    monkeypatch.setattr(kube_watch, "FIRST_PAUSE_S", 0.001)
    monkeypatch.setattr(kube_watch, "SHORT_WATCH_S", 0.001)
    async with following("team") as taker, asyncio.timeout(LIMIT_S):
        while taker.lists_missing < 5:  # noqa: ASYNC110 - what is awaited is seen from outside
            await asyncio.sleep(0.01)
        cluster.forbidden = ()
        await taker.configured.wait()
        while taker.lists_missing:  # noqa: ASYNC110 - what is awaited is seen from outside
            await asyncio.sleep(0.01)
