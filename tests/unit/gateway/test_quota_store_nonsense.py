"""What listens at the quota store's address may be anything: quotas go on with this gateway's share."""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator

import pytest

from proserve_gateway.quotas import tenant as quota_tenant
from quota_replicas import Replica, Wall, states

_COMMAND = re.compile(rb"^\*\d+\r\n", re.MULTILINE)


@contextlib.asynccontextmanager
async def answering(answer: bytes) -> AsyncIterator[str]:
    """Every command is answered like this."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(answer * len(_COMMAND.findall(data)))
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    yield f"valkey://127.0.0.1:{server.sockets[0].getsockname()[1]}/0"
    server.close()


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine is no slow store."""
    monkeypatch.setattr(quota_tenant, "ANSWER_S", 20.0)


@pytest.mark.parametrize(
    "answer",
    [b"+OK\r\n", b":abc\r\n", b"$5\r\nhello\r\n", b"*-1\r\n", b"$-1\r\n", b"HTTP/1.1 400 Bad Request\r\n\r\n"],
    ids=["ok", "no number", "text", "no list", "nothing", "HTTP"],
)
async def test_what_answers_nonsense_is_a_store_that_is_down(answer: bytes) -> None:
    async with answering(answer) as url:
        replica = Replica(url, Wall())
        await replica.beat()
        assert states(replica) == [False]
        assert len(await replica.admitted(times=10)) == 5, "half of ten: there may be another gateway"
        await replica.store.close()


async def test_what_forgets_at_once_is_no_store_and_fills_no_log(caplog: pytest.LogCaptureFixture) -> None:
    async with answering(b":0\r\n") as url:
        replica = Replica(url, Wall())
        for _ in range(5):
            await replica.beat()
        admitted = await replica.admitted(times=10)
        assert 5 <= len(admitted) <= 10
        assert len(await replica.admitted(times=10)) + len(admitted) <= 10
        assert replica.store.failures["lost_data"] > 1
        assert len([record for record in caplog.records if "lost its data" in record.message]) == 1
        await replica.store.close()
