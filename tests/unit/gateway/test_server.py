"""The assembled gateway: starts, follows its engines, takes a new configuration, stops without losing requests."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import httpx
import pytest

from fake_openai_engine import FakeEngine, fake_engine
from proserve_core.resources import Resources
from proserve_gateway.background import OTHER
from proserve_gateway.configuration.configuration import ConfigurationTaker
from proserve_gateway.configuration.files import ResourceFiles
from proserve_gateway.fleet.target import EngineTarget, TargetError
from proserve_gateway.rpc import inference_pb2 as pb
from proserve_gateway.rpc.inference_pb2_grpc import InferenceStub
from proserve_gateway.security.credentials import CredentialFiles
from proserve_gateway.server import Gateway, GatewayConfig, Listen, serve
from resource_builders import endpoint_pool, keyed_tenant, parse, priority_class, secret
from tls_files import TlsFolder

AUTH = {"authorization": "Bearer sk-alice"}
STREAM = {"model": "outside", "messages": [{"role": "user", "content": "hi"}], "stream": True}
GRPC_AUTH = (("authorization", "Bearer sk-alice"),)
ANY = Listen("127.0.0.1", 0)
LIMIT_S = 60.0


def resources(*urls: str, key: str = "sk-alice") -> Resources:
    return parse(priority_class("high"), keyed_tenant("alice"), secret(alice=key), endpoint_pool("outside", *urls))


@contextlib.asynccontextmanager
async def running(engine: FakeEngine, drain_s: float = 5.0) -> AsyncIterator[tuple[Gateway, httpx.AsyncClient]]:
    """A gateway that is ready, in front of one engine, and a client for it."""
    config = GatewayConfig(resources=resources(engine.url), http=ANY, admin=ANY, grpc=ANY, drain_s=drain_s)
    gateway = Gateway(config)
    await gateway.start()
    await ready(gateway)
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{gateway.http.port}", verify=False) as client:
            yield gateway, client
    finally:
        await gateway.stop(0.0)


async def ready(gateway: Gateway) -> None:
    async with asyncio.timeout(60):
        while gateway.missing:  # noqa: ASYNC110 readiness is asked for, as a probe does
            await asyncio.sleep(0.005)


async def test_all_ports_serve_in_front_of_an_endpoint_pool() -> None:
    async with fake_engine() as engine, running(engine) as (gateway, client):
        reply = await client.post("/v1/chat/completions", json=STREAM, headers=AUTH)
        assert reply.headers["x-proserve-engine"] == "outside-0"
        assert reply.text.endswith("data: [DONE]\n\n")
        async with grpc.aio.insecure_channel(f"127.0.0.1:{gateway.grpc_port}") as channel:
            stub = InferenceStub(channel)  # type: ignore[no-untyped-call]
            answer = await stub.Generate(pb.GenerateRequest(model="outside", prompt="hi"), metadata=GRPC_AUTH)
            assert answer.text.startswith("t0")
        assert gateway.admin is not None
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{gateway.admin.port}", verify=False) as admin:
            assert (await admin.get("/readyz")).status_code == 200
            status = (await admin.get("/status")).json()
            assert status["total"]["requests"] == 2
            assert status["engines"][0]["state"] == "ready"
            assert 'proserve_gateway_route_decisions_total{pool="outside"' in (await admin.get("/metrics")).text


async def test_everything_beside_the_data_path_begins_again_when_it_fails(tmp_path: Path) -> None:
    key = tmp_path / "admin.key"
    key.write_text("sk-admin-of-this-test\n")
    config = GatewayConfig(
        resources=resources(),
        http=ANY,
        admin=ANY,
        grpc=ANY,
        record=tmp_path / "record",
        quota_store="valkey://127.0.0.1:1",
        credentials=CredentialFiles(tls=TlsFolder(tmp_path).files(), admin_keys=key),
    )
    gateway = Gateway(config)
    await gateway.start()
    gateway.follow(ResourceFiles([tmp_path / "none.yaml"], load=lambda: (resources(), ())))
    try:
        (family,) = gateway.metrics.background_failures.collect()
        kept = {sample.labels["task"] for sample in family.samples}
        assert kept == {
            "polls of engines", "renewal of data_tls", "renewal of engine_tls", "renewal of admin_keys", "quota store",
            "gain history", "record file", "TLS listener", "admin port", "admin port's time-outs", "gRPC health",
            "configuration", OTHER,
        }  # fmt: skip
    finally:
        await gateway.stop(0.0)


async def test_series_of_an_engine_end_with_it() -> None:
    async with fake_engine() as engine, running(engine) as (gateway, _):

        def engines() -> set[str]:
            (family,) = gateway.metrics.polls.collect()
            return {sample.labels["engine"] for sample in family.samples}

        assert engines() == {"outside-0"}
        gateway.configure(parse(priority_class("high")), ())
        assert engines() == set()


def test_gateway_without_a_grpc_port_serves_http_and_does_not_import_grpc() -> None:
    code = """
import asyncio, socket, sys
from proserve_core.resources import Resources
from proserve_gateway.security.credentials import CredentialFiles
from proserve_gateway.server import Gateway, GatewayConfig, Listen

async def main():
    gateway = Gateway(GatewayConfig(resources=Resources(), http=Listen("127.0.0.1", 0)))
    await gateway.start()
    socket.create_connection(("127.0.0.1", gateway.http.port)).close()
    print(gateway.grpc_port, sorted({"grpc", "google.protobuf"} & sys.modules.keys()))
    await gateway.stop(0.0)

asyncio.run(main())
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "None []"


async def test_new_configuration_takes_over_as_a_whole_and_a_bad_one_not_at_all() -> None:
    async with fake_engine() as engine, running(engine) as (gateway, client):
        gateway.configure(resources(engine.url, key="sk-new"), ())
        old = await client.post("/v1/chat/completions", json=STREAM, headers=AUTH)
        new = await client.post("/v1/chat/completions", json=STREAM, headers={"authorization": "Bearer sk-new"})
        assert (old.status_code, new.status_code) == (401, 200)
        twice = EngineTarget(name="outside-0", pool="outside", base_url=engine.url)
        with pytest.raises(TargetError, match="outside-0"):
            gateway.configure(resources(engine.url, key="sk-newer"), [twice])
        new = await client.post("/v1/chat/completions", json=STREAM, headers={"authorization": "Bearer sk-new"})
        assert new.status_code == 200


async def test_gateway_that_has_no_configuration_yet_asks_clients_to_come_again() -> None:
    """A 401 would be taken for a wrong key, and no client would try again."""
    async with fake_engine() as engine:
        gateway = Gateway(GatewayConfig(resources=Resources(), http=ANY, grpc=ANY, in_cluster=True))
        await gateway.start()
        address = f"127.0.0.1:{gateway.grpc_port}"
        try:
            async with (
                httpx.AsyncClient(base_url=f"http://127.0.0.1:{gateway.http.port}", verify=False) as client,
                grpc.aio.insecure_channel(address) as channel,
            ):
                reply = await client.post("/v1/chat/completions", json=STREAM, headers=AUTH)
                assert (reply.status_code, reply.json()["error"]["code"]) == (503, "gateway_starting")
                assert reply.headers["retry-after"] == "2"
                assert (await client.get("/v1/models", headers=AUTH)).status_code == 503
                stub = InferenceStub(channel)  # type: ignore[no-untyped-call]
                with pytest.raises(grpc.aio.AioRpcError) as refused:
                    await stub.Generate(pb.GenerateRequest(model="outside", prompt="hi"), metadata=GRPC_AUTH)
                assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
                gateway.configure(resources(engine.url), ())
                await ready(gateway)
                assert (await client.get("/v1/models", headers=AUTH)).status_code == 200
                assert (await client.get("/v1/models", headers={"authorization": "Bearer x"})).status_code == 401
        finally:
            await gateway.stop(0.0)


async def test_configuration_is_followed_while_open_requests_end() -> None:
    """A drain may take minutes, in which engines come and go."""
    async with fake_engine() as engine:
        config = GatewayConfig(resources=resources(engine.url), http=ANY, admin=ANY, drain_s=LIMIT_S)
        brought: list[str] = []
        gate = engine.token_gate = asyncio.Event()

        class Source:
            async def follow(self, taker: ConfigurationTaker) -> None:
                while not gateways or not gateways[0].readiness.stopping:  # noqa: ASYNC110 as a cluster's watch is
                    await asyncio.sleep(0.01)
                taker.configure(resources(engine.url, key="sk-later"), ())
                brought.append("later")
                gate.set()
                await asyncio.Event().wait()

        gateways: list[Gateway] = []
        serving = asyncio.create_task(serve(config, source=Source(), on_started=gateways.append))
        async with asyncio.timeout(LIMIT_S):
            while not gateways:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            await ready(gateways[0])
            async with (
                httpx.AsyncClient(base_url=f"http://127.0.0.1:{gateways[0].http.port}", verify=False) as client,
                client.stream("POST", "/v1/chat/completions", json=STREAM, headers=AUTH) as reply,
            ):
                os.kill(os.getpid(), signal.SIGTERM)
                text = "".join([part async for part in reply.aiter_text()])
            await serving
        assert brought == ["later"]
        assert text.endswith("data: [DONE]\n\n")
        assert "error" not in text


async def test_open_stream_ends_in_full_while_the_gateway_stops() -> None:
    async with fake_engine() as engine, running(engine) as (gateway, client):
        engine.token_gate = asyncio.Event()
        async with client.stream("POST", "/v1/chat/completions", json=STREAM, headers=AUTH) as reply:
            stopping = asyncio.create_task(gateway.stop())
            await asyncio.sleep(0.2)
            assert gateway.missing == ["the gateway is shutting down"]
            with pytest.raises(httpx.ConnectError):
                await httpx.AsyncClient(verify=False).get(f"http://127.0.0.1:{gateway.http.port}/v1/models")
            engine.token_gate.set()
            text = "".join([part async for part in reply.aiter_text()])
        assert "t3 " in text
        assert text.endswith("data: [DONE]\n\n")
        assert "error" not in text
        await asyncio.wait_for(stopping, 60)


async def test_stream_that_outlasts_the_drain_ends_with_an_error_event() -> None:
    async with fake_engine() as engine, running(engine, drain_s=0.1) as (gateway, client):
        engine.token_gate = asyncio.Event()
        async with client.stream("POST", "/v1/chat/completions", json=STREAM, headers=AUTH) as reply:
            stopping = asyncio.create_task(gateway.stop())
            text = "".join([part async for part in reply.aiter_text()])
        *_, error, done, end = text.split("\n\n")
        assert (done, end) == ("data: [DONE]", "")
        assert json.loads(error.removeprefix("data: "))["error"]["code"] == "gateway_shutting_down"
        await asyncio.wait_for(stopping, 60)


async def test_address_in_use_is_an_error_at_start() -> None:
    async with fake_engine() as engine:
        taken = Listen("127.0.0.1", engine.port)
        with pytest.raises(OSError, match="in use"):
            Gateway(GatewayConfig(resources=resources(engine.url), http=taken))


async def test_signal_stops_the_gateway_after_open_requests() -> None:
    started: asyncio.Future[Gateway] = asyncio.get_running_loop().create_future()
    async with fake_engine() as engine:
        config = GatewayConfig(resources=resources(engine.url), http=ANY)
        serving = asyncio.create_task(serve(config, on_started=started.set_result))
        gateway = await started
        await ready(gateway)
        engine.token_gate = asyncio.Event()
        url = f"http://127.0.0.1:{gateway.http.port}/v1/chat/completions"
        async with (
            httpx.AsyncClient(verify=False) as client,
            client.stream("POST", url, json=STREAM, headers=AUTH) as reply,
        ):
            os.kill(os.getpid(), signal.SIGTERM)
            await asyncio.sleep(0.2)
            assert not serving.done()
            engine.token_gate.set()
            assert (await reply.aread()).endswith(b"data: [DONE]\n\n")
        await asyncio.wait_for(serving, 60)


class Source:
    """Brings what a test says, through the whole gateway."""

    def __init__(self) -> None:
        self.taker: asyncio.Future[ConfigurationTaker] = asyncio.get_running_loop().create_future()

    async def follow(self, taker: ConfigurationTaker) -> None:
        self.taker.set_result(taker)
        await asyncio.Event().wait()


async def test_configuration_source_changes_what_is_served_and_metrics_tell_a_refusal() -> None:
    started: asyncio.Future[Gateway] = asyncio.get_running_loop().create_future()
    source = Source()
    async with fake_engine() as engine:
        config = GatewayConfig(resources=resources(engine.url), http=ANY)
        serving = asyncio.create_task(serve(config, source=source, on_started=started.set_result))
        gateway, taker = await started, await source.taker
        await ready(gateway)
        url = f"http://127.0.0.1:{gateway.http.port}/v1/models"
        sample = gateway.metrics.registry.get_sample_value
        async with httpx.AsyncClient(verify=False) as client:
            assert (await client.get(url, headers=AUTH)).status_code == 200
            taker.configure(resources(engine.url, key="sk-other"), ())
            # On the same connection: what counts is the key of each request.
            assert (await client.get(url, headers=AUTH)).status_code == 401
            assert sample("proserve_gateway_configurations_total", {"result": "applied"}) == 1
            taker.refused("2 errors in the resources")
            assert gateway.configuration.error == "2 errors in the resources"
            assert sample("proserve_gateway_configuration_last_load_successful") == 0
            assert (await client.get(url, headers={"authorization": "Bearer sk-other"})).status_code == 200
            taker.configure(resources(engine.url), ())
            assert sample("proserve_gateway_configuration_last_load_successful") == 1
            assert gateway.configuration.error == ""
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.wait_for(serving, 60)


async def test_engine_of_an_unknown_pool_is_refused() -> None:
    async with fake_engine() as engine, running(engine) as (gateway, client):
        stray = EngineTarget(name="stray-0", pool="stray", base_url=engine.url)
        with pytest.raises(ValueError, match="stray-0 belongs to pool 'stray'"):
            gateway.configure(resources(engine.url), [stray])
        assert (await client.post("/v1/chat/completions", json=STREAM, headers=AUTH)).status_code == 200
