"""The Python client of the package, against a running gRPC port."""

import asyncio

import grpc
import pytest

from grpc_bench import Bench
from proserve_gateway.client import AsyncInferenceClient, InferenceClient, InferenceError, Message, Objectives, request

HELLO = request(model="tiny", prompt=[Message("user", "Hello")], max_tokens=3)


async def test_whole_and_streamed_answers_say_the_same(bench: Bench) -> None:
    async with AsyncInferenceClient(bench.address, api_key="sk-acme") as client:
        whole = await client.generate(HELLO, objectives=Objectives(priority_class="low", ttft_ms=9000))
        chunks = [chunk async for chunk in client.stream(HELLO)]
    assert whole.served.priority_class == "low"
    assert "".join(chunk.text for chunk in chunks) == whole.text.replace(" ", "")
    assert chunks[-1].usage.output_tokens == whole.usage.output_tokens == 3


async def test_blocking_client_does_the_same(bench: Bench) -> None:
    def ask() -> tuple[str, str]:
        with InferenceClient(bench.address, api_key="sk-acme") as client:
            text = client.generate(request(model="tiny", prompt="Once")).text
            return text, "".join(chunk.text for chunk in client.stream(request(model="tiny", prompt=[1, 2, 3])))

    assert await asyncio.to_thread(ask) == ("a b c", "abc")
    assert [body["prompt"] for body in bench.engine.bodies] == ["Once", [1, 2, 3]]


async def test_errors_say_what_programs_need(bench: Bench) -> None:
    async with AsyncInferenceClient(bench.address) as client:
        with pytest.raises(InferenceError) as nobody:
            await client.generate(HELLO)
    async with AsyncInferenceClient(bench.address, api_key="sk-acme") as client:
        with pytest.raises(InferenceError) as wrong:
            await client.generate(request(model="tiny", prompt="x", temperature=float("nan")))
        bench.engine.break_after = 2
        with pytest.raises(InferenceError) as broken:
            async for _ in client.stream(HELLO):
                pass
    assert (nobody.value.code, nobody.value.reason) == (grpc.StatusCode.UNAUTHENTICATED, "INVALID_API_KEY")
    assert (wrong.value.code, wrong.value.field) == (grpc.StatusCode.INVALID_ARGUMENT, "sampling.temperature")
    assert (broken.value.code, broken.value.reason) == (grpc.StatusCode.UNAVAILABLE, "ENGINE_FAILURE")
    assert broken.value.usage["completion_tokens"] == 2
    assert len(broken.value.request_id) == 24


async def test_leaving_a_stream_aborts_it_at_the_engine(bench: Bench) -> None:
    bench.engine.hang_after = 1
    async with AsyncInferenceClient(bench.address, api_key="sk-acme") as client:
        stream = client.stream(HELLO)
        assert (await anext(stream)).text == "a"
        await stream.aclose()  # type: ignore[attr-defined]
        await asyncio.wait_for(bench.engine.left.wait(), 60)


@pytest.mark.parametrize("prompt", [[], [Message("user", "x"), 5]])
def test_prompts_that_are_none_are_refused_at_once(prompt: list[Message]) -> None:
    with pytest.raises(ValueError, match="expected a text, a list of Message or a list of token ids"):
        request(model="tiny", prompt=prompt)
