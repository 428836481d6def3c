"""The HTTP port against bytes: nothing is smuggled, crashed, hung or leaked by what is no proper request."""

import asyncio
import logging
import re
from collections.abc import Sequence
from contextlib import AsyncExitStack

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fake_openai_engine import FakeEngine, fake_engine
from gateway_builders import Gateway, gateway
from raw_http import ACCEPTED, HI, KEY, POST, REFUSED, sized

FRAGMENTS = (
    b"\r\n", b"\n", b"\r", b"\0", b" ", b"\t", b":", b";", b",", b"0\r\n\r\n", b"ffffffff", b"chunked",
    b"content-length: 3\r\n", b"transfer-encoding: chunked\r\n", b"connection: close\r\n", b"expect: 100-continue\r\n",
    b"upgrade: h2c\r\n", b"host: a\r\n", b"HTTP/1.1", b"\xff\xfe", b"x" * 3000, KEY, POST, HI,
)  # fmt: skip
EXAMPLES = 80
LONG_S = 60.0
PROPER = sized(HI, POST + b"connection: close\r\n")
KNOWN = {200, 400, 401, 404, 405, 408, 413, 431}


async def exchange(gate: Gateway, pieces: Sequence[bytes], *, wait_s: float, answers: int = 0) -> bytes:
    """All that comes for these bytes until the gateway ends the connection, or, after so many answers, says nothing
    more for a while."""
    reader, writer = await asyncio.open_connection("127.0.0.1", gate.server.port)
    said = b""
    try:
        for piece in pieces:
            writer.write(piece)
            await asyncio.sleep(0)
        while data := await asyncio.wait_for(
            reader.read(65536), wait_s if said.count(b"HTTP/1.1 200") >= answers else LONG_S
        ):
            said += data
        return said + b"<end>"
    except TimeoutError:
        return said
    except ConnectionError:
        return said + b"<end>"
    finally:
        writer.close()


def prompts(engine: FakeEngine) -> list[object]:
    return [request.body.get("prompt") for request in engine.requests]


@pytest.mark.parametrize("whole", [True, False], ids=["at once", "in two"])
@pytest.mark.parametrize("name", REFUSED)
async def test_what_could_be_read_in_two_ways_is_refused_and_ends_the_connection(name: str, whole: bool) -> None:
    raw = REFUSED[name]
    middle = raw.find(b"\r\n\r\n") + 4
    async with fake_engine() as engine, gateway(engine) as gate:
        said = await exchange(gate, [raw] if whole else [raw[:middle], raw[middle:]], wait_s=LONG_S)
        assert said.endswith(b"<end>")
        assert re.findall(rb"HTTP/1\.1 (\d+)", said) == [b"400"]
        assert prompts(engine) == []


@pytest.mark.parametrize("name", ACCEPTED)
async def test_proper_requests_are_served_and_bodies_are_never_requests(name: str) -> None:
    raw, served = ACCEPTED[name]
    async with fake_engine() as engine, gateway(engine) as gate:
        said = await exchange(gate, [raw], wait_s=0.3, answers=max(served, 1))
        assert said.count(b"HTTP/1.1 200") == max(served, 1)
        assert prompts(engine) == ["hi"] * served


@st.composite
def mutated(draw: st.DrawFn) -> list[bytes]:
    """A request of the corpus with a few changes, in pieces."""
    raw = draw(st.sampled_from([*REFUSED.values(), *(raw for raw, _ in ACCEPTED.values())]))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(raw)))
        end = min(len(raw), start + draw(st.integers(0, 12)))
        raw = raw[:start] + draw(st.sampled_from(FRAGMENTS) | st.binary(max_size=6)) + raw[end:]
    cuts = sorted(draw(st.lists(st.integers(0, len(raw)), max_size=3)))
    return [raw[start:end] for start, end in zip([0, *cuts], [*cuts, len(raw)], strict=True)]


def test_changed_requests_neither_crash_nor_hang_nor_leak(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)
    with asyncio.Runner() as runner:
        stack = AsyncExitStack()

        async def begin() -> tuple[FakeEngine, Gateway]:
            engine = await stack.enter_async_context(fake_engine())
            return engine, await stack.enter_async_context(gateway(engine))

        engine, gate = runner.run(begin())

        @settings(max_examples=EXAMPLES, suppress_health_check=[HealthCheck.too_slow])
        @given(pieces=mutated())
        def fuzz(pieces: list[bytes]) -> None:
            said = runner.run(exchange(gate, pieces, wait_s=0.03))
            assert {int(status) for status in re.findall(rb"HTTP/1\.1 (\d+) ", said)} <= KNOWN | {100}
            assert b"HTTP/1.1 200" in runner.run(exchange(gate, [PROPER], wait_s=LONG_S))
            assert not caplog.records, caplog.text

        fuzz()

        async def end() -> None:
            async with asyncio.timeout(60):
                while gate.upstream.open_exchanges:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            await stack.aclose()

        runner.run(end())
    assert engine.requests
