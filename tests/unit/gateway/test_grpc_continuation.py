"""Streams over gRPC whose engine fails: another one goes on, and the call ends as if nothing had happened."""

import asyncio
from typing import Any

import grpc
import grpc.aio
import pytest

from fake_openai_engine import Reply, fake_engine
from grpc_bench import KEY, running_bench
from proserve_gateway.rpc import inference_pb2 as pb
from proserve_gateway.upstream.exchange import UpstreamLimits

TOKENS = 6
INPUTS = [
    pb.GenerateRequest(prompt="Once"),
    pb.GenerateRequest(token_ids=pb.TokenIds(ids=[1, 2, 3])),
    pb.GenerateRequest(chat=pb.Chat(messages=[pb.ChatMessage(role="user", content="hi")])),
]


@pytest.mark.parametrize("request_", INPUTS, ids=["prompt", "token ids", "chat"])
@pytest.mark.parametrize("break_before", [1, 3, 5])
async def test_stream_goes_on_at_another_engine(request_: pb.GenerateRequest, break_before: int) -> None:
    asked = pb.GenerateRequest(model="tiny", sampling=pb.Sampling(max_tokens=TOKENS))
    asked.MergeFrom(request_)
    async with fake_engine("a") as a, fake_engine("b") as b, running_bench(a, b) as bench:
        a.break_before = break_before
        parts = [part async for part in bench.stub.GenerateStream(asked, metadata=KEY)]
    assert "".join(part.text for part in parts) == "".join(f"t{number} " for number in range(TOKENS))
    assert sum(part.tokens for part in parts) == TOKENS
    assert [part.finish_reason for part in parts if part.finish_reason] == ["length"]
    assert parts[-1].usage == pb.Usage(prompt_tokens=7, output_tokens=TOKENS)
    assert parts[0].served.engine == "a"


async def test_whole_answer_comes_from_another_engine() -> None:
    asked = pb.GenerateRequest(model="tiny", prompt="Once", sampling=pb.Sampling(max_tokens=TOKENS))
    async with fake_engine("a") as a, fake_engine("b") as b, running_bench(a, b) as bench:

        async def hang_up(_request: object, reply: Reply) -> None:
            await reply.raw(b"HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\n{")
            reply.hang_up()

        a.behave = hang_up
        reply = await bench.stub.Generate(asked, metadata=KEY)
    assert (reply.served.engine, reply.usage.output_tokens) == ("b", TOKENS)


async def read_all(call: Any) -> None:
    while await call.read() is not grpc.aio.EOF:
        pass


async def test_client_that_takes_nothing_is_cut_with_a_reason_and_memory_stays_bounded() -> None:
    sent = 0

    async def endless(_request: object, reply: Reply) -> None:
        nonlocal sent
        choice = {"index": 0, "text": "x" * 10_000, "finish_reason": None}
        await reply.start_stream()
        while True:
            await reply.event({"id": "x", "object": "o", "created": 1, "model": "tiny", "choices": [choice]})
            sent += 10_000

    asked = pb.GenerateRequest(model="tiny", prompt="Once")
    limits = UpstreamLimits(stall_s=0.2)
    async with fake_engine("a") as a, fake_engine("b") as b, running_bench(a, b, limits=limits) as bench:
        a.behave = endless
        call = bench.stub.GenerateStream(asked, metadata=KEY)
        await call.read()
        await asyncio.wait_for(a.client_left.wait(), 60)
        assert sent < 40 * 2**20
        with pytest.raises(grpc.aio.AioRpcError, match="took nothing") as caught:
            await read_all(call)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert bench.requests("499") == 1
        assert b.requests == []
