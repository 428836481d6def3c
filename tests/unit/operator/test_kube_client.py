"""What the operator's client makes of an API server's answers."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import kmock
import pytest
from kubernetes.aio.client import ApiClient, Configuration

from proserve_operator.kube_client import KubeClient, KubeError

POOLS = "/apis/proserve.dev/v1alpha1/namespaces/team/enginepools"
pytestmark = pytest.mark.kmock(cls=kmock.RawHandler)

TINY = {"kind": "EnginePool", "metadata": {"name": "tiny", "namespace": "team"}}


@asynccontextmanager
async def connected(kmock: kmock.RawHandler, *, request_limit_s: float = 60.0) -> AsyncIterator[KubeClient]:
    configuration = Configuration(host=str(kmock.url).rstrip("/"))
    made = KubeClient(ApiClient(configuration), request_limit_s=request_limit_s)
    yield made
    await made.close()


@pytest.fixture
async def client(kmock: kmock.RawHandler) -> AsyncIterator[KubeClient]:
    async with connected(kmock) as made:
        yield made


async def test_apply_takes_over_the_fields_it_names(kmock: kmock.RawHandler, client: KubeClient) -> None:
    kmock[f"patch {POOLS}/tiny/status"] << {"metadata": {"name": "tiny"}, "applied": True}
    applied = await client.apply(TINY, manager="me", subresource="status")
    assert applied["applied"] is True
    (request,) = kmock["patch"]
    assert dict(request.params) == {"fieldManager": "me", "force": "true"}
    assert request.headers["Content-Type"] == "application/apply-patch+yaml"
    assert request.data == TINY


async def test_object_that_is_not_there_is_none(kmock: kmock.RawHandler, client: KubeClient) -> None:
    kmock[f"get {POOLS}/tiny"] << 404 << {"message": "not found"}
    assert await client.get("EnginePool", "team", "tiny") is None


async def test_refusal_is_told_in_the_servers_words(kmock: kmock.RawHandler, client: KubeClient) -> None:
    kmock["patch"] << 422 << {"message": "spec.weight: Invalid value"}
    with pytest.raises(KubeError, match=r"enginepools/tiny: spec\.weight: Invalid value") as refused:
        await client.apply(TINY, manager="me")
    assert not refused.value.retry


@pytest.mark.parametrize("status", [409, 429, 500, 503])
async def test_overload_and_conflicts_are_for_later(kmock: kmock.RawHandler, client: KubeClient, status: int) -> None:
    kmock["patch"] << status << {"message": "not now"}
    with pytest.raises(KubeError) as refused:
        await client.apply(TINY, manager="me")
    assert refused.value.retry


async def test_server_that_does_not_answer_is_for_later(kmock: kmock.RawHandler) -> None:
    kmock["get"] << (lambda: asyncio.sleep(30))
    async with connected(kmock, request_limit_s=0.5) as client:
        with pytest.raises(KubeError, match="does not answer") as refused:
            await client.get("EnginePool", "team", "tiny")
    assert refused.value.retry


async def test_answer_of_something_else_in_between_is_an_error(kmock: kmock.RawHandler, client: KubeClient) -> None:
    kmock["get"] << 502 << b"<html>Bad gateway</html>"
    with pytest.raises(KubeError, match="status 502"):
        await client.get("EnginePool", "team", "tiny")


async def test_all_pages_of_a_list_are_read(kmock: kmock.RawHandler, client: KubeClient) -> None:
    pages = {
        "": {"metadata": {"continue": "more"}, "items": [{"metadata": {"name": "a"}}]},
        "more": {"metadata": {}, "items": [{"metadata": {"name": "b"}}]},
    }
    kmock[f"get {POOLS}"] << (lambda request: pages[dict(request.params).get("continue", "")])  # type: ignore[operator]
    names = [each["name"] async for each in client.versions("EnginePool", "team", managed=False)]
    assert names == ["a", "b"]


async def test_empty_list_is_empty(kmock: kmock.RawHandler, client: KubeClient) -> None:
    kmock["get"] << {"metadata": {}, "items": None}
    assert [each async for each in client.versions("EnginePool", None, managed=True)] == []
