"""Calls over gRPC that fail: bad input, refusals, engines that break, calls given up."""

import asyncio
from typing import Any

import grpc
import grpc.aio
import pytest
from google.rpc import error_details_pb2, status_pb2

from fake_openai_engine import FakeRequest, Reply, fake_engine
from grpc_bench import KEY, PROMPT, Bench, running_bench
from proserve_core.gain import LossCause
from proserve_gateway.grpc import api
from proserve_gateway.grpc.api import SERVICE
from proserve_gateway.rpc import inference_pb2 as pb


async def end_of(call: Any, texts: list[str]) -> None:
    """Take a call to its end; text that comes before goes to `texts`."""
    if hasattr(call, "__aiter__"):
        async for chunk in call:
            texts.append(chunk.text)  # noqa: PERF401 - what came before an error counts
    else:
        texts.append((await call).text)


async def failure(call: Any, texts: list[str] | None = None) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await end_of(call, [] if texts is None else texts)
    return caught.value


def raw(bench: Bench, method: str) -> Any:
    """A method that sends bytes as they are."""
    return bench.channel.unary_unary(f"/{SERVICE}/{method}")


def details(error: grpc.aio.AioRpcError) -> status_pb2.Status:
    trailers = dict(error.trailing_metadata() or ())
    status = status_pb2.Status.FromString(trailers["grpc-status-details-bin"])
    assert status.code == error.code().value[0]
    assert status.message == error.details()
    return status


def reason(error: grpc.aio.AioRpcError) -> str:
    info = error_details_pb2.ErrorInfo()
    assert details(error).details[0].Unpack(info)
    assert info.domain == "proserve.dev"
    return str(info.reason)


@pytest.mark.parametrize("method", ["Generate", "GenerateStream"])
@pytest.mark.parametrize(
    ("message", "metadata", "code", "expected_reason", "text"),
    [
        (PROMPT, (), "UNAUTHENTICATED", "INVALID_API_KEY", "no API key"),
        (PROMPT, (("authorization", "Bearer sk-x"),), "UNAUTHENTICATED", "INVALID_API_KEY", "not known"),
        (pb.GenerateRequest(model="gpt", prompt="x"), KEY, "NOT_FOUND", "MODEL_NOT_FOUND", "you can use: tiny"),
        (pb.GenerateRequest(prompt="x"), KEY, "INVALID_ARGUMENT", "MISSING_REQUIRED_PARAMETER", "model is missing"),
        (pb.GenerateRequest(model="tiny"), KEY, "INVALID_ARGUMENT", "MISSING_INPUT", "prompt, chat and token_ids"),
        (PROMPT, (*KEY, ("x-proserve-ttft-ms", "soon")), "INVALID_ARGUMENT", "INVALID_VALUE", "x-proserve-ttft-ms"),
        (PROMPT, (*KEY, ("x-proserve-class", "gold")), "INVALID_ARGUMENT", "INVALID_VALUE", "no class 'gold'"),
    ],
)
async def test_bad_input_is_a_clear_error(
    bench: Bench,
    method: str,
    message: pb.GenerateRequest,
    metadata: tuple[tuple[str, str], ...],
    code: str,
    expected_reason: str,
    text: str,
) -> None:
    error = await failure(getattr(bench.stub, method)(message, metadata=metadata))
    assert error.code().name == code
    assert text in (error.details() or "")
    assert reason(error) == expected_reason
    assert "x-proserve-request-id" in dict(error.trailing_metadata() or ())
    assert bench.engine.paths == []


async def test_field_at_fault_is_named_for_programs(bench: Bench) -> None:
    error = await failure(bench.stub.Generate(pb.GenerateRequest(model="gpt", prompt="x"), metadata=KEY))
    bad_request = error_details_pb2.BadRequest()
    assert details(error).details[1].Unpack(bad_request)
    assert [violation.field for violation in bad_request.field_violations] == ["model"]


async def test_bytes_that_are_no_message_are_refused(bench: Bench) -> None:
    error = await failure(raw(bench, "Generate")(b"\xff\xff", metadata=KEY))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert reason(error) == "INVALID_MESSAGE"


async def test_oversized_message_is_refused(bench: Bench) -> None:
    error = await failure(bench.stub.Generate(pb.GenerateRequest(model="tiny", prompt="x" * 20_000), metadata=KEY))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_unknown_method_is_refused(bench: Bench) -> None:
    error = await failure(raw(bench, "Train")(b"", metadata=KEY))
    assert error.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_refusal_of_the_engine_reaches_the_client(bench: Bench) -> None:
    bench.engine.refuse_with = 400
    error = await failure(bench.stub.GenerateStream(PROMPT, metadata=KEY))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "too long" in (error.details() or "")


async def test_no_engine_says_when_to_try_again(bench: Bench) -> None:
    bench.fleet.set_targets([])
    error = await failure(bench.stub.Generate(PROMPT, metadata=KEY))
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    retry = error_details_pb2.RetryInfo()
    assert details(error).details[-1].Unpack(retry)
    assert retry.retry_delay.seconds >= 1


async def test_stream_that_breaks_off_never_ends_well(bench: Bench) -> None:
    bench.engine.break_after = 2
    texts: list[str] = []
    error = await failure(bench.stub.GenerateStream(PROMPT, metadata=KEY), texts)
    assert "".join(texts) == "ab"
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert reason(error) == "ENGINE_FAILURE"
    info = error_details_pb2.ErrorInfo()
    details(error).details[0].Unpack(info)
    assert info.metadata["completion_tokens"] == "2"


def streaming(*choices: dict[str, Any], usage: Any = None) -> Any:
    """An engine whose last event is unlike OpenAI's, or as far from it as that is allowed."""

    async def behave(request: FakeRequest, reply: Reply) -> None:
        if not request.body.get("stream"):
            await reply.json(200, {"choices": list(choices), "usage": usage})
            return
        await reply.start_stream()
        await reply.event({"choices": [{"index": 0, "text": "a"}]})
        await asyncio.sleep(0.02)
        await reply.event({"choices": list(choices)})
        await reply.event({"choices": [], "usage": usage})
        await reply.event("[DONE]")
        await reply.end()

    return behave


NUMBER_FOR_TEXT = {"index": 0, "text": 5, "finish_reason": "stop"}


@pytest.mark.parametrize("method", ["Generate", "GenerateStream"])
async def test_answer_that_messages_cannot_tell_is_the_engines_failure(method: str) -> None:
    async with fake_engine() as engine, running_bench(engine) as bench:
        engine.behave = streaming(NUMBER_FOR_TEXT)
        error = await failure(getattr(bench.stub, method)(PROMPT, metadata=KEY))
        assert (error.code(), reason(error)) == (grpc.StatusCode.UNAVAILABLE, "ENGINE_FAILURE")
        await settled(bench)
        assert (bench.requests("502"), bench.requests("499"), bench.requests("200")) == (1, 0, 0)
        assert set(bench.accounting.ledger.total().lost) == {LossCause.ENGINE_FAILURE}


@pytest.mark.parametrize("choices", [[NUMBER_FOR_TEXT], []])
async def test_whole_answer_that_messages_cannot_tell_is_asked_for_elsewhere(choices: list[dict[str, Any]]) -> None:
    async with fake_engine("a") as a, fake_engine("b") as b, running_bench(a, b) as bench:
        a.behave = streaming(*choices)
        for _ in range(2):
            assert (await bench.stub.Generate(PROMPT, metadata=KEY)).served.engine == "b"


async def test_engine_need_not_know_how_long_the_prompt_is() -> None:
    async with fake_engine() as engine, running_bench(engine) as bench:
        said = {"index": 0, "text": "b", "finish_reason": "stop"}
        engine.behave = streaming(said, usage={"prompt_tokens": None, "completion_tokens": 2})
        chunks = [chunk async for chunk in bench.stub.GenerateStream(PROMPT, metadata=KEY)]
        assert "".join(chunk.text for chunk in chunks) == "ab"
        assert chunks[-1].usage.output_tokens == 2


@pytest.mark.parametrize(("faulty", "booked"), [("chunk", True), ("parse_request", False)])
async def test_fault_of_the_gateway_is_told_and_booked_as_one(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, faulty: str, booked: bool
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(api, faulty, fail)
    error = await failure(bench.stub.GenerateStream(PROMPT, metadata=KEY))
    assert (error.code(), reason(error)) == (grpc.StatusCode.INTERNAL, "INTERNAL_ERROR")
    assert (bench.requests("500"), bench.requests("499")) == (1, 0)
    assert bool(bench.accounting.ledger.total().lost) is booked


class EndedContext:
    """Of a call that is over while its task has not been told."""

    def __init__(self, context: Any, written: asyncio.Event) -> None:
        self._context = context
        self._written = written

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    async def write(self, message: object) -> None:
        self._written.set()
        raise grpc.aio.UsageError("RPC already finished.")


async def test_call_that_is_over_when_it_is_written_to_was_the_clients_end(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    generate_stream, written = api.GrpcApi.generate_stream, asyncio.Event()

    async def ended(self: api.GrpcApi, messages: object, context: Any) -> None:
        await generate_stream(self, messages, EndedContext(context, written))  # type: ignore[arg-type]

    monkeypatch.setattr(api.GrpcApi, "generate_stream", ended)
    async with running_bench() as bench:
        call = bench.stub.GenerateStream(PROMPT, metadata=KEY)
        await asyncio.wait_for(written.wait(), 60)
        await settled(bench)
        call.cancel()
        assert (bench.requests("499"), bench.requests("500")) == (1, 0)
        assert LossCause.ENGINE_FAILURE not in bench.accounting.ledger.total().lost
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


@pytest.mark.parametrize("key", ["authorization", "x-proserve-class"])
async def test_what_says_whose_a_call_is_may_not_come_twice(bench: Bench, key: str) -> None:
    metadata = (*KEY, (key, "Bearer no"), (key, "low"))
    error = await failure(bench.stub.Generate(PROMPT, metadata=metadata))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "twice" in (error.details() or "")


async def test_cancelled_call_aborts_the_engines_work(bench: Bench) -> None:
    bench.engine.hang_after = 1
    call = bench.stub.GenerateStream(PROMPT, metadata=KEY)
    assert (await call.read()).text == "a"
    call.cancel()
    await asyncio.wait_for(bench.engine.left.wait(), 60)
    await settled(bench)
    assert bench.requests("499") == 1


@pytest.mark.parametrize("method", ["Generate", "GenerateStream"])
async def test_deadline_of_the_call_ends_the_engines_work(bench: Bench, method: str) -> None:
    bench.engine.hang_after = 1
    error = await failure(getattr(bench.stub, method)(PROMPT, metadata=KEY, timeout=2.0))
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await asyncio.wait_for(bench.engine.left.wait(), 60)
    await settled(bench)
    assert bench.requests("499") == 1


@pytest.mark.parametrize("tokens", [0, 1])
@pytest.mark.parametrize("passed", [True, False])
async def test_call_that_ends_at_its_deadline_is_told_from_one_that_is_given_up(
    bench: Bench, tokens: int, passed: bool
) -> None:
    bench.engine.hang_after = tokens
    call = bench.stub.GenerateStream(PROMPT, metadata=KEY, timeout=500.0)
    reading = asyncio.ensure_future(call.read())
    async with asyncio.timeout(60):
        while not (reading.done() if tokens else bench.engine.bodies):  # noqa: ASYNC110 - seen from outside
            await asyncio.sleep(0.002)
    bench.later_s = 500.0 if passed else 100.0
    call.cancel()
    await asyncio.wait_for(bench.engine.left.wait(), 60)
    await settled(bench)
    reading.cancel()
    (record,) = bench.decisions.latest(9)
    assert (record.status, record.error) == (499, "deadline_exceeded" if passed else "")
    assert record.why.startswith("the call's deadline of " if passed else "")
    (family,) = bench.metrics.deadlines_passed.collect()
    assert [(sample.labels["pool"], sample.value) for sample in family.samples] == [("chat", 1)] * passed


async def settled(bench: Bench) -> None:
    async with asyncio.timeout(60):
        while bench.fleet.status()[0].in_flight:  # noqa: ASYNC110 - what is awaited is seen from outside
            await asyncio.sleep(0.002)


async def test_a_tenant_beyond_its_quota_is_told_which_and_for_how_long(bench: Bench) -> None:
    small = (("authorization", "Bearer sk-small"),)
    await bench.stub.Generate(PROMPT, metadata=small)
    error = await failure(bench.stub.Generate(PROMPT, metadata=small))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert reason(error) == "RATE_LIMIT_EXCEEDED"
    quota, retry = error_details_pb2.QuotaFailure(), error_details_pb2.RetryInfo()
    found = details(error).details
    assert found[1].Unpack(quota)
    assert quota.violations[0].subject == "tenant:small"
    assert "requests per minute: limit 1" in quota.violations[0].description
    assert found[2].Unpack(retry)
    assert 60 < retry.retry_delay.seconds <= 120


@pytest.mark.parametrize("method", ["Generate", "GenerateStream"])
async def test_a_tenant_with_too_many_bytes_under_way_is_told_to_come_back(method: str) -> None:
    long = pb.GenerateRequest(model="tiny", prompt="x" * 4_000, sampling=pb.Sampling(max_tokens=3))
    async with running_bench(body_bytes=10_000) as bench:
        bench.engine.hang_after = 0
        call = getattr(bench.stub, method)
        first = call(long, metadata=KEY)
        reading = asyncio.ensure_future(failure(first))
        async with asyncio.timeout(60):
            while not bench.engine.bodies:  # noqa: ASYNC110 - what is awaited is seen from outside
                await asyncio.sleep(0.002)
        error = await failure(call(long, metadata=KEY))
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "tenant acme" in str(error.details())
        bench.engine.hang_after = None
        assert (await bench.stub.Generate(long, metadata=(("authorization", "Bearer sk-small"),))).text == "a b c"
        first.cancel()
        await asyncio.wait({reading})
        await settled(bench)
        assert (await bench.stub.Generate(long, metadata=KEY)).text == "a b c"
