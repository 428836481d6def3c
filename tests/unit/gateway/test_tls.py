"""TLS of the data ports and towards engines, with files that are renewed while everything runs."""

import asyncio
import contextlib
import shutil
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import httpx
import pytest

from fake_openai_engine import FakeEngine, fake_engine
from proserve_gateway.http import tls_listener
from proserve_gateway.rpc import inference_pb2 as pb
from proserve_gateway.rpc.inference_pb2_grpc import InferenceStub
from proserve_gateway.security.credentials import CredentialFiles
from proserve_gateway.security.tls import EngineTls, EngineTlsFiles, ServerTls, TlsError, TlsFiles
from proserve_gateway.server import Gateway, GatewayConfig, Listen
from resource_builders import endpoint_pool, keyed_tenant, parse, priority_class, secret
from tls_files import DATA, TlsFolder, ca, client_context, client_pem, engine_files, server_context

ANY = Listen("127.0.0.1", 0)
AUTH = {"authorization": "Bearer sk-alice"}
CHAT = {"model": "outside", "messages": [{"role": "user", "content": "hi"}]}


@contextlib.asynccontextmanager
async def running(engine: FakeEngine, credentials: CredentialFiles) -> AsyncIterator[Gateway]:
    """A gateway that is ready."""
    url = f"{'https' if engine.tls is not None else 'http'}://localhost:{engine.port}"
    resources = parse(
        priority_class("high"), keyed_tenant("alice"), secret(alice="sk-alice"), endpoint_pool("outside", url)
    )
    gateway = Gateway(GatewayConfig(resources=resources, http=ANY, grpc=ANY, admin=ANY, credentials=credentials))
    await gateway.start()
    try:
        async with asyncio.timeout(60):
            while gateway.missing:  # noqa: ASYNC110 readiness is asked for, as a probe does
                await asyncio.sleep(0.005)
        yield gateway
    finally:
        await gateway.stop(0.0)


def https(gateway: Gateway, context: ssl.SSLContext) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=f"https://localhost:{gateway.http.port}", verify=context, headers=AUTH)


async def answers(gateway: Gateway, context: ssl.SSLContext) -> bool:
    """Whether a client that connects anew gets an answer."""
    async with https(gateway, context) as client:
        try:
            return (await client.post("/v1/chat/completions", json=CHAT)).status_code == 200
        except httpx.TransportError:
            return False


async def grpc_answers(gateway: Gateway, trusts: str, shows: str | None = None) -> bool:
    certificate, key = client_pem(shows) if shows is not None else (None, None)
    credentials = grpc.ssl_channel_credentials(ca(trusts), key, certificate)
    # Channels to one address share a connection unless told otherwise.
    alone = (("grpc.use_local_subchannel_pool", 1),)
    async with grpc.aio.secure_channel(f"localhost:{gateway.grpc_port}", credentials, options=alone) as channel:
        try:
            answer = await InferenceStub(channel).Generate(  # type: ignore[no-untyped-call]
                pb.GenerateRequest(model="outside", prompt="hi"),
                metadata=(("authorization", "Bearer sk-alice"),),
                timeout=60,
            )
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.UNAVAILABLE:
                raise
            return False
        return bool(answer.text)


async def renewed(gateway: Gateway, result: str) -> None:
    """Wait until the gateway has looked at files that have changed."""
    labels = {"part": "data_tls", "result": result}
    async with asyncio.timeout(60):
        while not gateway.metrics.registry.get_sample_value("proserve_gateway_renewals_total", labels):  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def test_both_protocols_speak_tls(tmp_path: Path) -> None:
    credentials = CredentialFiles(tls=TlsFolder(tmp_path).files())
    async with fake_engine() as engine, running(engine, credentials) as gateway:
        assert await answers(gateway, client_context("first"))
        assert await grpc_answers(gateway, "first")
        assert not await answers(gateway, client_context("second"))
        async with httpx.AsyncClient() as plain:
            with pytest.raises(httpx.TransportError):
                await plain.get(f"http://localhost:{gateway.http.port}/v1/models")


async def test_renewed_certificate_is_for_new_connections_and_open_ones_go_on(tmp_path: Path) -> None:
    folder = TlsFolder(tmp_path)
    async with (
        fake_engine() as engine,
        running(engine, CredentialFiles(tls=folder.files())) as gateway,
        https(gateway, client_context("first")) as before,
    ):
        assert (await before.get("/v1/models")).status_code == 200
        folder.install("second")
        await renewed(gateway, "applied")
        assert await answers(gateway, client_context("second"))
        assert await grpc_answers(gateway, "second")
        assert not await answers(gateway, client_context("first"))
        assert not await grpc_answers(gateway, "first")
        assert (await before.get("/v1/models")).status_code == 200


async def test_broken_new_files_are_reported_and_the_old_ones_stay(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = TlsFolder(tmp_path)
    async with fake_engine() as engine, running(engine, CredentialFiles(tls=folder.files())) as gateway:
        folder.install_key("second")
        await renewed(gateway, "refused")
        assert await answers(gateway, client_context("first"))
        assert await grpc_answers(gateway, "first")
        assert f"{folder.certificate} and {folder.key}: expected a pair of certificate and key" in caplog.text
        folder.install("second")
        await renewed(gateway, "applied")
        assert await answers(gateway, client_context("second"))


async def test_clients_must_show_a_certificate_where_one_is_asked_for(tmp_path: Path) -> None:
    folder = TlsFolder(tmp_path)
    credentials = CredentialFiles(tls=folder.files(client_ca=True))
    async with fake_engine() as engine, running(engine, credentials) as gateway:
        assert await answers(gateway, client_context("first", "first"))
        assert await grpc_answers(gateway, "first", "first")
        for shows in (None, "second"):
            assert not await answers(gateway, client_context("first", shows))
            assert not await grpc_answers(gateway, "first", shows)
        folder.install("second")
        await renewed(gateway, "applied")
        # The authority of clients changes with the certificate, the old one is not trusted any more.
        assert await answers(gateway, client_context("second", "second"))
        assert not await answers(gateway, client_context("second", "first"))
        assert not await grpc_answers(gateway, "second", "first")


async def test_handshake_that_does_not_come_ends_the_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tls_listener, "HANDSHAKE_S", 0.1)
    credentials = CredentialFiles(tls=TlsFolder(tmp_path).files())
    async with fake_engine() as engine, running(engine, credentials) as gateway:
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.http.port)
        async with asyncio.timeout(60):
            assert await reader.read() == b""
        writer.close()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_old_session_is_no_way_around_a_new_authority_of_clients(tmp_path: Path, version: ssl.TLSVersion) -> None:
    folder = TlsFolder(tmp_path)
    server = ServerTls(folder.files(client_ca=True))
    client = client_context("first", "first")
    client.maximum_version = version
    session = handshake(client, server.context)
    shutil.copy(DATA / "second-ca.pem", folder.ca)
    assert server.renew()
    with pytest.raises(ssl.SSLError, match=r"(?i)certificate.verify.failed"):
        handshake(client, server.context, session)


def handshake(
    client: ssl.SSLContext, server: ssl.SSLContext, session: ssl.SSLSession | None = None
) -> ssl.SSLSession | None:
    """A connection with a message in each direction; what the client may resume later."""
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = client.wrap_bio(to_client, to_server, server_hostname="localhost", session=session)
    theirs = server.wrap_bio(to_server, to_client, server_side=True)
    waiting = [ours.do_handshake, theirs.do_handshake]
    while waiting:
        step = waiting.pop(0)
        try:
            step()
        except ssl.SSLWantReadError:
            waiting.append(step)
    theirs.write(b"x")
    assert ours.read(1) == b"x"
    ours.write(b"y")
    assert theirs.read(1) == b"y"
    return ours.session


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_old_session_of_grpc_is_no_way_around_a_new_authority_of_clients(
    tmp_path: Path, version: ssl.TLSVersion
) -> None:
    folder = TlsFolder(tmp_path)
    client = client_context("first", "first")
    client.maximum_version = version
    client.set_alpn_protocols(["h2"])
    credentials = CredentialFiles(tls=folder.files(client_ca=True))
    async with fake_engine() as engine, running(engine, credentials) as gateway:
        assert gateway.grpc_port is not None
        session, resumed = await asyncio.to_thread(http2_settings, client, gateway.grpc_port)
        assert not resumed
        # Without a new authority it would have been one.
        assert (await asyncio.to_thread(http2_settings, client, gateway.grpc_port, session))[1]
        shutil.copy(DATA / "second-ca.pem", folder.ca)
        await renewed(gateway, "applied")
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await asyncio.to_thread(http2_settings, client, gateway.grpc_port, session)


def http2_settings(
    client: ssl.SSLContext, port: int, session: ssl.SSLSession | None = None
) -> tuple[ssl.SSLSession | None, bool]:
    """A connection that gets as far as HTTP/2; what the client may resume later, and whether it has resumed `session`.

    Blocking: asyncio takes no session.
    """
    with (
        socket.create_connection(("127.0.0.1", port), 10) as plain,
        client.wrap_socket(plain, server_hostname="localhost", session=session) as encrypted,
    ):
        encrypted.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0")
        if encrypted.recv(9)[3:4] != b"\4":
            raise ConnectionResetError
        return encrypted.session, bool(encrypted.session_reused)


async def test_engine_over_https_is_checked_and_sees_the_gateways_certificate() -> None:
    async with fake_engine(tls=server_context("first", asks_for="second")) as engine:
        credentials = CredentialFiles(engine_tls=engine_files("first", shows="second"))
        async with running(engine, credentials) as gateway, httpx.AsyncClient(headers=AUTH) as client:
            reply = await client.post(f"http://localhost:{gateway.http.port}/v1/chat/completions", json=CHAT)
            assert reply.status_code == 200
        for wrong in (engine_files("second", shows="second"), engine_files("first")):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.5), running(engine, CredentialFiles(engine_tls=wrong)):
                    pass


def test_files_that_cannot_be_used_are_named_with_what_is_wrong(tmp_path: Path) -> None:
    folder = TlsFolder(tmp_path)
    good = folder.files()
    missing = tmp_path / "missing.pem"
    with pytest.raises(TlsError, match=r"missing\.pem and .*tls\.key: cannot be read: No such file"):
        ServerTls(TlsFiles(certificate=missing, key=good.key))
    with pytest.raises(TlsError, match="expected a pair of certificate and key in PEM form"):
        ServerTls(TlsFiles(certificate=good.key, key=good.key))
    encrypted = DATA / "first-server-encrypted.key"
    with pytest.raises(TlsError, match=r"encrypted\.key is encrypted: store it without a passphrase"):
        ServerTls(TlsFiles(certificate=good.certificate, key=encrypted))
    with pytest.raises(TlsError, match=r"tls\.key: expected certificates in PEM form"):
        ServerTls(TlsFiles(certificate=good.certificate, key=good.key, client_ca=good.key))
    with pytest.raises(TlsError, match="a certificate for engines needs its key"):
        EngineTls(EngineTlsFiles(certificate=good.certificate))
