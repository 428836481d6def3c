"""`proserve gateway --kubernetes` on a real API server: what changes there is in force here, and what breaks is not."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from api_server import ApiServer
from cluster_gateway import ANY, Front, gateway_of, until
from cluster_objects import Namespace, install_definitions
from fake_openai_engine import fake_engine
from kubernetes_keys import make_authority, make_certificate
from proserve_core.resources import Resources
from proserve_gateway.configuration import kube_targets
from proserve_gateway.configuration.kube_watch import connect
from proserve_gateway.configuration.kubernetes import KubernetesSource
from proserve_gateway.server import Gateway, GatewayConfig
from resource_builders import Data, engine_pool, keyed_tenant, priority_class, secret, tenant


@pytest.fixture(scope="module")
def server(api_server: ApiServer) -> ApiServer:
    install_definitions(api_server)
    return api_server


@pytest.fixture
async def namespace(server: ApiServer) -> Namespace:
    return Namespace(server)


@pytest.fixture
async def front(server: ApiServer, namespace: Namespace, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Front]:
    async with gateway_of(server, namespace.name, monkeypatch) as made:
        yield made


def named(namespace: Namespace, text: str = "class") -> str:
    """A class of this test: classes belong to the whole cluster."""
    return f"{text}-{namespace.name}"


def slice_of(pool: str, *pods: str, ready: bool = True) -> Data:
    """An EndpointSlice as its controller makes it. The addresses are of a network for documentation."""
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": f"{pool}-slice", "labels": {"proserve.dev/pool": pool}},
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8000}, {"name": "capacity", "port": 9400}],
        "endpoints": [
            {
                "addresses": [f"192.0.2.{number}"],
                "conditions": {"ready": ready, "serving": ready},
                "targetRef": {"kind": "Pod", "name": pod},
            }
            for number, pod in enumerate(pods, 1)
        ],
    }


def at_loopback(scheme: str, _: str, port: int) -> str:
    """The API server takes no address of loopback."""
    return f"{scheme}://127.0.0.1:{port}"


async def test_resources_of_the_cluster_are_served(front: Front, namespace: Namespace) -> None:
    await until(front.ready, bool)
    assert await front.models("sk-alice") == 401
    await namespace.apply(
        priority_class(named(namespace)),
        keyed_tenant("alice", priorityClassName=named(namespace)),
        secret(alice="sk-alice"),
        engine_pool("tiny"),
    )
    await until(lambda: front.models("sk-alice"), lambda said: said == ["tiny"])
    assert await front.models("sk-other") == 401
    assert named(namespace) in (await front.status())["classes"]


async def test_key_that_is_deleted_or_replaced_stops_working(front: Front, namespace: Namespace) -> None:
    await namespace.apply(
        priority_class(named(namespace)),
        keyed_tenant("alice", priorityClassName=named(namespace)),
        tenant("bob", priorityClassName=named(namespace), anonymous=True),
        secret(alice="sk-first"),
        engine_pool("tiny"),
    )
    await until(lambda: front.models("sk-first"), lambda said: said == ["tiny"])
    await namespace.apply(secret(alice="sk-second"))
    await until(lambda: front.models("sk-second"), lambda said: said == ["tiny"])
    assert await front.models("sk-first") == 401
    await namespace.kubectl("delete", "secret", "keys")
    await until(lambda: front.models("sk-second"), lambda said: said == 401)
    # Others are not touched, and the operator is told.
    assert await front.models() == ["tiny"]
    problems = (await front.report()).problems[f"Tenant/{namespace.name}/alice"]
    assert "there is no Secret 'keys'" in problems[0]
    await namespace.apply(secret(alice="sk-third"))
    await until(lambda: front.models("sk-third"), lambda said: said == ["tiny"])
    await namespace.kubectl("delete", "ptn", "alice")
    await until(lambda: front.models("sk-third"), lambda said: said == 401)


async def test_secret_that_is_there_before_anybody_names_it(front: Front, namespace: Namespace) -> None:
    await namespace.apply(secret("early", alice="sk-early"), engine_pool("tiny"), priority_class(named(namespace)))
    await until(front.ready, bool)
    await namespace.apply(keyed_tenant("alice", secret="early", priorityClassName=named(namespace)))
    await until(lambda: front.models("sk-early"), lambda said: said == ["tiny"])


async def test_resource_edited_to_nonsense_keeps_its_last_right_version(front: Front, namespace: Namespace) -> None:
    pool = engine_pool("tiny")
    await namespace.apply(priority_class(named(namespace)), tenant("any", priorityClassName=named(namespace)), pool)
    await until(front.models, lambda said: said == ["tiny"])
    # Annotations are what the API server can't judge.
    pool["metadata"]["annotations"] = {"proserve.dev/calibration": "nonsense"}
    await namespace.apply(pool, engine_pool("other", model={"name": "other", "uri": "generated://tiny"}))
    await until(front.models, lambda said: said == ["other", "tiny"])
    problems = (await front.report()).problems
    assert "'nonsense' is not a possible value" in problems[f"EnginePool/{namespace.name}/tiny"][0]
    pool["metadata"]["annotations"] = {"proserve.dev/calibration": "cpu-tiny"}
    await namespace.apply(pool)

    async def problems_now() -> dict[str, list[str]]:
        return (await front.report()).problems

    await until(problems_now, lambda said: not said)


async def test_class_that_is_deleted_serves_while_it_is_named(front: Front, namespace: Namespace) -> None:
    await namespace.apply(
        priority_class(named(namespace)), tenant("any", priorityClassName=named(namespace)), engine_pool("tiny")
    )
    await until(front.models, lambda said: said == ["tiny"])
    await namespace.kubectl("delete", "ppc", named(namespace))
    await namespace.apply(engine_pool("next", model={"name": "next", "uri": "generated://tiny"}))
    await until(front.models, lambda said: said == ["next", "tiny"])


async def test_engines_get_the_first_key_of_their_pools_secret(
    front: Front, namespace: Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kube_targets, "_url", at_loopback)
    old, new = "first-key-of-engines", "second-key-of-engines"
    keys = {"secretKeyRef": {"name": "engine-keys", "key": "keys"}}
    async with fake_engine() as engine:
        addresses = slice_of("tiny", "engine-tiny-0")
        addresses["ports"] = [{"name": "http", "port": int(engine.url.rsplit(":", 1)[1])}]
        await namespace.apply(
            priority_class(named(namespace)),
            keyed_tenant("alice", priorityClassName=named(namespace)),
            secret(alice="sk-alice"),
            secret("engine-keys", keys=f"{old}\n{new}\n"),
            engine_pool("tiny", engine={"keys": keys}),
            addresses,
        )

        async def key_sent() -> str:
            answer = await front.completion("tiny", "sk-alice")
            return engine.requests[-1].headers["authorization"] if answer.status_code == 200 else answer.text

        await until(key_sent, lambda said: said == f"Bearer {old}")
        await namespace.apply(secret("engine-keys", keys=f"{new}\n{old}\n"))
        await until(key_sent, lambda said: said == f"Bearer {new}")
        # Engines keep what they have mounted.
        await namespace.kubectl("delete", "secret", "engine-keys")

        async def problems_now() -> list[str]:
            return (await front.report()).problems.get(f"EnginePool/{namespace.name}/tiny", [])

        (problem,) = await until(problems_now, bool)
        assert "there is no Secret 'engine-keys'" in problem
        assert await key_sent() == f"Bearer {new}"


async def test_engines_with_tls_are_trusted_by_the_authority_in_their_pools_secret(
    front: Front, namespace: Namespace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(kube_targets, "_url", at_loopback)
    make_authority(tmp_path)
    make_certificate(tmp_path, "tls", subject="/CN=engine", addresses=[f"DNS:engine-tiny.{namespace.name}.svc"])
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(tmp_path / "tls.crt", tmp_path / "tls.key")
    certificate = secret("engine-tls", **{name: (tmp_path / name).read_text() for name in ("tls.crt", "tls.key")})
    certificate["type"] = "kubernetes.io/tls"

    async def problems_now() -> list[str]:
        return (await front.report()).problems.get(f"EnginePool/{namespace.name}/tiny", [])

    async def answer() -> int:
        return (await front.completion("tiny", "sk-alice")).status_code

    async with fake_engine(tls=context) as engine:
        addresses = slice_of("tiny", "engine-tiny-0")
        addresses["metadata"]["labels"]["kubernetes.io/service-name"] = "engine-tiny"
        addresses["ports"] = [{"name": "https", "port": engine.port}]
        await namespace.apply(
            priority_class(named(namespace)),
            keyed_tenant("alice", priorityClassName=named(namespace)),
            secret(alice="sk-alice"),
            certificate,
            engine_pool("tiny", engine={"tls": {"secretName": "engine-tls"}}),
            addresses,
        )
        # Until the Secret has been read, what is told is that there is none.
        await until(problems_now, lambda said: "Secret 'engine-tls' has no entry 'ca.crt'" in " ".join(said))
        await until(answer, lambda said: said == 503)
        certificate["stringData"]["ca.crt"] = (tmp_path / "ca.crt").read_text()
        await namespace.apply(certificate)
        await until(answer, lambda said: said == 200)
        assert await problems_now() == []


async def test_engines_are_the_pods_behind_the_pools_service(front: Front, namespace: Namespace) -> None:
    async def engines() -> list[str]:
        return [f"{each['name']} {each['url']} {each['capacity_url']}" for each in (await front.status())["engines"]]

    def at(pod: str, host: str) -> str:
        return f"{namespace.name}/{pod} http://{host}:8000 http://{host}:9400"

    await namespace.apply(engine_pool("tiny"), slice_of("tiny", "a", "b"), slice_of("unknown", "x"))
    await until(engines, lambda said: said == [at("a", "192.0.2.1"), at("b", "192.0.2.2")])
    await namespace.apply(slice_of("tiny", "a"))
    await until(engines, lambda said: said == [at("a", "192.0.2.1")])
    await namespace.apply(slice_of("tiny", "a", ready=False))
    await until(engines, lambda said: said == [])


async def test_pool_without_engines_keeps_no_gateway_from_being_ready(front: Front, namespace: Namespace) -> None:
    await until(front.ready, bool)
    await namespace.apply(
        engine_pool("empty"), priority_class(named(namespace)), tenant("any", priorityClassName=named(namespace))
    )
    await until(front.models, lambda said: said == ["tiny"])
    assert await front.ready()


async def test_gateway_serves_on_without_the_api_server_and_follows_it_again(
    own_api_server: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_definitions(own_api_server)
    namespace = Namespace(own_api_server)
    async with gateway_of(own_api_server, namespace.name, monkeypatch) as front:
        await until(front.ready, bool)
        await namespace.apply(priority_class(), keyed_tenant("alice"), secret(alice="sk-a"), engine_pool("tiny"))
        await until(lambda: front.models("sk-a"), lambda said: said == ["tiny"])
        await asyncio.to_thread(own_api_server.stop)
        await asyncio.sleep(2)
        assert await front.models("sk-a") == ["tiny"]
        assert await front.ready()
        await asyncio.to_thread(own_api_server.start)
        await namespace.apply(secret(alice="sk-b"))
        await until(lambda: front.models("sk-b"), lambda said: said == ["tiny"])
        assert await front.models("sk-a") == 401


async def test_tokens_and_other_peoples_secrets_are_not_kept(
    server: ApiServer, namespace: Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    await namespace.apply(secret("theirs", password="hunter2"), secret(alice="sk-a"), keyed_tenant("alice"))
    monkeypatch.setenv("KUBECONFIG", str(server.kubeconfig))
    api = await connect()
    source = KubernetesSource(namespaces=[namespace.name], api=api)
    gateway = Gateway(GatewayConfig(resources=Resources(), http=ANY, in_cluster=True))
    following = asyncio.create_task(source.follow(gateway))
    try:
        await until(lambda: _kept(source), lambda said: "keys" in said)
        assert await _kept(source) == {"keys"}
    finally:
        following.cancel()
        await asyncio.wait({following})
        await gateway.stop(0.0)
        await api.close()


async def _kept(source: KubernetesSource) -> set[str]:
    return {name for _, name in source.secrets_kept}
