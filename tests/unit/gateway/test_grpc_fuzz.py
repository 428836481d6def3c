"""The gRPC port against bytes: whatever is sent, calls end with a status of the client's own making."""

import asyncio
import contextlib
from typing import Any

import grpc
import grpc.aio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from grpc_bench import KEY, PROMPT, Bench, running_bench

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS = b"\0\0\0\4\0\0\0\0\0"
OURS = {
    grpc.StatusCode.OK,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.UNAUTHENTICATED,
}
EXAMPLES = 60


async def status(bench: Bench, method: str, message: bytes, key: bytes) -> grpc.StatusCode:
    """How a call with this message ends."""
    raw: Any = bench.channel.unary_unary(f"/proserve.v1.Inference/{method}")
    code: grpc.StatusCode = await raw(message, metadata=(("authorization", key),), timeout=60).code()
    return code


def test_any_message_and_key_end_with_a_status_that_says_whose_fault_it_is() -> None:
    start = PROMPT.SerializeToString()
    messages = st.binary(max_size=60) | st.builds(
        lambda at, cut, junk: start[:at] + junk + start[at + cut :],
        st.integers(0, len(start)), st.integers(0, 8), st.binary(max_size=8),
    )  # fmt: skip
    keys = st.sampled_from(["Bearer sk-acme", "Bearer x", ""]) | st.text(
        st.characters(min_codepoint=32, max_codepoint=126), max_size=20
    )
    with asyncio.Runner() as runner:
        stack = contextlib.AsyncExitStack()
        bench = runner.run(stack.enter_async_context(running_bench()))

        @settings(max_examples=EXAMPLES, suppress_health_check=[HealthCheck.too_slow])
        @given(message=messages, key=keys, method=st.sampled_from(["Generate", "GenerateStream"]))
        def fuzz(message: bytes, key: str, method: str) -> None:
            assert runner.run(status(bench, method, message, key.encode())) in OURS

        fuzz()
        runner.run(stack.aclose())


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"GET / HTTP/1.1\r\nhost: x\r\n\r\n",
        PREFACE + b"\xff" * 64,
        PREFACE + SETTINGS + b"\xff\xff\xff\0\0\0\0\0\1" + b"x" * 100,
        PREFACE + SETTINGS + b"\0\0\4\1\4\0\0\0\1\xff\xff\xff\xff",
        PREFACE + SETTINGS * 2000,
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 10,
    ],
    ids=["nothing", "HTTP/1.1", "noise", "huge frame", "bad headers", "flood of settings", "TLS"],
)
async def test_bytes_that_are_no_calls_do_not_disturb_others(bench: Bench, raw: bytes) -> None:
    host, port = bench.address.split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(raw)
    with contextlib.suppress(TimeoutError, ConnectionError):
        await asyncio.wait_for(reader.read(), 0.2)
    assert (await bench.stub.Generate(PROMPT, metadata=KEY, timeout=60)).text == "a b c"
    writer.close()
