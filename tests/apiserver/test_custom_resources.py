"""The CustomResourceDefinitions on a real API server: it accepts and refuses what the offline reader does."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

import httpx
import pytest

from api_server import ApiServer
from document_variations import contradictions, full_documents, variations
from proserve_core.resources import CUSTOM_KINDS
from proserve_core.resources.crds import definitions
from proserve_core.resources.kinds import Kind, Reading
from resource_builders import Data, engine_pool, priority_class, tenant

CHART = Path(__file__).parents[2] / "charts" / "proserve-crds" / "templates"
# Thousands of documents, each judged by a real API server.
KINDS = {kind.name: kind for kind in CUSTOM_KINDS}
AT_ONCE = 8
MODEL = {"name": "m", "uri": "generated://tiny"}
LATE = {"timeToFirstToken": "25h", "timePerOutputToken": "1s"}


@pytest.fixture(scope="module")
def server(api_server: ApiServer) -> ApiServer:
    api_server.kubectl("apply", "--server-side", "-f", str(CHART))
    names = [crd["metadata"]["name"] for crd in definitions().values()]
    api_server.kubectl("wait", "--for=condition=Established", "crd", *names)
    return api_server


@pytest.fixture
async def client(server: ApiServer) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=server.url, verify=server.tls, timeout=60) as made:
        yield made


def path_of(kind: Kind) -> str:
    assert kind.definition is not None
    scope = "/namespaces/default" if kind.namespaced else ""
    return f"/apis/proserve.dev/v1alpha1{scope}/{kind.definition.plural}"


def document(kind: str, spec: Any, name: str = "x") -> Data:
    return {"apiVersion": "proserve.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec}


async def refusal(client: httpx.AsyncClient, data: Data) -> str | None:
    """What the API server says against the document; None if it takes it."""
    query = {"dryRun": "All", "fieldValidation": "Strict"}
    for _ in range(20):
        reply = await client.post(path_of(KINDS[data["kind"]]), params=query, json=data)
        if reply.status_code not in (404, 429):
            break
        # A definition that has just been made is not served everywhere at once.
        await asyncio.sleep(0.25)
    assert reply.status_code in (201, 400, 422), reply.text
    return None if reply.status_code == 201 else reply.json()["message"]


def errors(data: Data) -> list[str]:
    return [str(error) for error in Reading(KINDS[data["kind"]], "x", data).reader.errors]  # type: ignore[arg-type]


async def disagreements(client: httpx.AsyncClient, documents: Iterable[tuple[str, Data]]) -> list[str]:
    gate = asyncio.Semaphore(AT_ONCE)

    async def compare(what: str, data: Data) -> str | None:
        async with gate:
            said = await refusal(client, data)
        found = errors(data)
        if bool(said) == bool(found):
            return None
        return f"{what}: offline {found or 'accepts'}, the API server {said or 'accepts'}"

    compared = await asyncio.gather(*(compare(what, data) for what, data in documents))
    assert compared, "nothing to compare"
    return [each for each in compared if each is not None]


@pytest.mark.parametrize("kind", KINDS)
async def test_each_field_alone_is_judged_alike(client: httpx.AsyncClient, kind: str) -> None:
    right = document(kind, full_documents()[kind])
    assert errors(right) == []
    assert await refusal(client, right) is None
    made = [(_shown(path, data), data) for path, data in variations(KINDS[kind].fields, right)]
    assert len(made) > 200
    assert await disagreements(client, made) == []


def _shown(path: tuple[str | int, ...], data: Any) -> str:
    for step in path:
        data = data.get(step, "(absent)") if isinstance(data, dict) else data[step]
    return f"{path}: {json.dumps(data)[:80]}"


async def test_fields_together_are_judged_alike(client: httpx.AsyncClient) -> None:
    made = [(json.dumps(spec), document(kind, spec)) for kind, spec in contradictions()]
    assert await disagreements(client, made) == []


async def test_names_are_judged_alike(client: httpx.AsyncClient) -> None:
    names = ["a", "a" * 63, "a" * 64, "a.b", "a-b", "0", "-a", "A"]
    made = [(f"{kind} {name}", document(kind, full_documents()[kind], name)) for kind in KINDS for name in names]
    assert await disagreements(client, made) == []


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (
            document("PriorityClass", {"weight": 0, "objectives": LATE}),
            ["spec.weight", "greater than or equal to 1", "expected a duration from 1ms to 24h"],
        ),
        (
            document("Tenant", {"priorityClassName": "low"}),
            ["nobody could send a request as this tenant; add a key"],
        ),
        (
            document("EnginePool", {"model": MODEL, "engine": {"args": ["--port=1"]}}),
            ["spec.engine.args", "--port is set by ProServe; the engine's port is chosen for it"],
        ),
        (
            document("EnginePool", {"model": {"name": "m"}, "endpoints": [{"url": "http://h"}], "replicas": 2}),
            ["spec.replicas contradicts spec.endpoints (engines that somebody else runs); remove one of the two"],
        ),
        (
            document("EnginePool", {"model": MODEL, "scaling": {"min": 3, "max": 2}}),
            ["spec.scaling.min", "min is above max; lower it or raise max"],
        ),
    ],
)  # fmt: skip
async def test_refusals_name_the_field_and_the_fix(client: httpx.AsyncClient, data: Data, says: list[str]) -> None:
    message = await refusal(client, data)
    assert message is not None
    assert [part for part in says if part not in message] == []


def test_defaults_are_filled_in_and_unknown_fields_dropped(server: ApiServer) -> None:
    data = priority_class("defaulted", headroom={"percent": 5}, wieght=3)
    server.kubectl("apply", "--validate=false", "-f", "-", stdin=json.dumps(data))
    spec = server.get("ppc", "defaulted")["spec"]
    assert spec["headroom"] == {"percent": 5, "mode": "Entitlement"}
    assert "wieght" not in spec


def test_kubectl_refuses_unknown_fields(server: ApiServer) -> None:
    done = server.run("kubectl", "apply", "-f", "-", stdin=json.dumps(priority_class("unknown", wieght=3)))
    assert done.returncode != 0
    assert 'unknown field "spec.wieght"' in done.stderr


def test_model_name_never_changes_and_everything_else_may(server: ApiServer) -> None:
    data = engine_pool("immutable")
    server.kubectl("apply", "-f", "-", stdin=json.dumps(data))
    data["spec"]["model"]["uri"] = "hf://a/b"
    server.kubectl("apply", "-f", "-", stdin=json.dumps(data))
    data["spec"]["model"]["name"] = "another"
    done = server.run("kubectl", "apply", "-f", "-", stdin=json.dumps(data))
    assert done.returncode != 0
    assert "never changes; make another EnginePool for it" in done.stderr


def test_pool_is_scaled_by_kubectl_and_autoscalers(server: ApiServer) -> None:
    server.kubectl("apply", "-f", "-", stdin=json.dumps(engine_pool("scaled")))
    server.kubectl("scale", "epool/scaled", "--replicas=3")
    assert server.get("epool", "scaled")["spec"]["replicas"] == 3
    server.kubectl("scale", "epool/scaled", "--replicas=0")
    assert server.get("epool", "scaled")["spec"]["replicas"] == 0


def test_scaled_by_its_gain_a_pool_has_one_writer(server: ApiServer) -> None:
    server.kubectl("apply", "-f", "-", stdin=json.dumps(engine_pool("autoscaled", scaling={"max": 3})))
    done = server.run("kubectl", "scale", "epool/autoscaled", "--replicas=3")
    assert done.returncode != 0
    assert "spec.replicas contradicts spec.scaling" in done.stderr


def test_all_kinds_are_listed_together_and_by_short_names(server: ApiServer) -> None:
    for data in (priority_class("listed"), tenant("listed", priorityClassName="listed"), engine_pool("listed")):
        server.kubectl("apply", "-f", "-", stdin=json.dumps(data))
    listed = server.kubectl("get", "proserve", "-A")
    for resource in ("priorityclass", "tenant", "enginepool"):
        assert f"{resource}.proserve.dev/listed" in listed
    columns = server.kubectl("get", "ppc", "listed").splitlines()[0].split()
    assert columns == ["NAME", "WEIGHT", "TTFT", "TPOT", "GAIN", "SLO", "ACCEPTED", "AGE"]
    assert server.kubectl("get", "ptn", "listed").splitlines()[0].split()[:3] == ["NAME", "CLASS", "MAXIMUM"]
    assert server.kubectl("get", "epool", "listed").splitlines()[0].split()[:5] == [
        "NAME", "MODEL", "ENGINES", "READY", "REASON",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("field", "text"),
    [
        ("ppc.spec.overload.action", "Shed: refuse once it"),
        ("ptn.spec.apiKeys", "clients send one as bearer token"),
        ("epool.spec.engine.kvOffload", "KV blocks of preempted requests are kept in host memory"),
        ("epool.status.conditions", "docs/operator.md lists all reasons"),
    ],
)
def test_kubectl_explains_fields(server: ApiServer, field: str, text: str) -> None:
    name, _, rest = field.partition(".")
    plural = {"ppc": "priorityclasses", "ptn": "tenants", "epool": "enginepools"}[name]
    explained = server.kubectl("explain", f"{plural}.{rest}", "--api-version=proserve.dev/v1alpha1")
    assert text in " ".join(explained.split())
