"""`proserve up` with two real vLLM engines: the clients that users have, once."""

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import grpc
import httpx
import msgspec
import openai
import pydantic
import pytest

from interrupted_streams import Question, interrupted, late_stop, whole_answers
from otlp_receiver import Receiver, otlp_receiver
from proserve_gateway.rpc import inference_pb2
from proserve_gateway.rpc.inference_pb2_grpc import InferenceStub
from resource_builders import engine_pool
from running_proserve import RunningProserve

pytestmark = pytest.mark.engine

EXAMPLE = "examples/quickstart.yaml"
TOKENS = 1200
"""Of an answer that is interrupted: seconds of work."""
STRUCTURED = (
    # A model of random weights would write spaces where a grammar allows them.
    "--structured-outputs-config", json.dumps({"backend": "xgrammar", "disable_any_whitespace": True}),
    "--enable-auto-tool-choice", "--tool-call-parser", "hermes",
)  # fmt: skip
EMBEDDER = engine_pool(
    "embedder",
    model={"name": "embedder", "uri": "generated://tiny"},
    engine={"args": ["--runner", "pooling", "--convert", "embed"]},
)


@pytest.fixture(scope="module")
def collector() -> Iterator[Receiver]:
    """Where gateway and engines send their spans."""
    with otlp_receiver() as received:
        yield received


@pytest.fixture(scope="module")
def real(
    engine_python: str, collector: Receiver, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningProserve]:
    folder = tmp_path_factory.mktemp("real")
    example = (Path(__file__).parents[2] / EXAMPLE).read_text()
    place = "  engine:\n"
    assert place in example
    resources = folder / "resources.yaml"
    arguments = ["--otlp-traces-endpoint", f"{collector.url}/v1/traces", *STRUCTURED]
    resources.write_text(
        example.replace(place, f"{place}    args: {json.dumps(arguments)}\n") + f"---\n{json.dumps(EMBEDDER)}\n"
    )
    running = RunningProserve(
        ["up", "-f", str(resources), "--engine", "vllm", "--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0",
         "--admin", "127.0.0.1:0"],
        folder=folder,
        environment={
            "PROSERVE_ENGINE_PYTHON": engine_python,
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
            "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf",
            "OTEL_BSP_SCHEDULE_DELAY": "200",
        },
    )  # fmt: skip
    try:
        running.wait_ready(1500)
        yield running
        assert running.stop(limit_s=300) == 0
        assert running.descendants() == {}
    finally:
        running.kill_all()


def test_chat_and_completions_stream_what_the_whole_answer_says(real: RunningProserve) -> None:
    with openai.OpenAI(base_url=f"{real.http}/v1", api_key="sk-demo-interactive", max_retries=0, timeout=300) as client:
        messages: list[openai.types.chat.ChatCompletionMessageParam] = [{"role": "user", "content": "Hello"}]
        whole = client.chat.completions.create(model="tiny", messages=messages, max_tokens=12, temperature=0)
        chunks = list(
            client.chat.completions.create(
                model="tiny", messages=messages, max_tokens=12, temperature=0, stream=True,
                stream_options={"include_usage": True},
            )
        )  # fmt: skip
        text = client.completions.create(model="tiny", prompt="Hello", max_tokens=8, temperature=0)
        parts = list(client.completions.create(model="tiny", prompt="Hello", max_tokens=8, temperature=0, stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == (
        whole.choices[0].message.content
    )
    assert whole.usage is not None
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert "".join(part.choices[0].text for part in parts if part.choices) == text.choices[0].text


def test_spans_of_client_gateway_and_vllm_make_one_trace(real: RunningProserve, collector: Receiver) -> None:
    trace, client = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    reply = httpx.post(
        f"{real.http}/v1/completions",
        json={"model": "tiny", "prompt": "Hello", "max_tokens": 4},
        headers={"authorization": "Bearer sk-demo-interactive", "traceparent": f"00-{trace}-{client}-01"},
        timeout=300,
    )
    assert reply.status_code == 200
    end_s = time.monotonic() + 120
    while True:
        spans = {span.name: span for span in collector.spans if span.trace_id.hex() == trace}
        if {"text_completion tiny", "llm_request"} <= spans.keys():
            break
        assert time.monotonic() < end_s, f"the collector has {sorted(spans)}"
        time.sleep(0.1)
    ours, theirs = spans["text_completion tiny"], spans["llm_request"]
    assert ours.parent_span_id.hex() == client
    assert theirs.parent_span_id == ours.span_id
    assert ours.start_time_unix_nano < theirs.end_time_unix_nano <= ours.end_time_unix_nano + 10**9


def test_responses_logprobs_and_choices_are_vllms_own(real: RunningProserve) -> None:
    with openai.OpenAI(base_url=f"{real.http}/v1", api_key="sk-demo-interactive", max_retries=0, timeout=300) as client:
        whole = client.responses.create(model="tiny", input="Hello", max_output_tokens=8, temperature=0)
        events = list(
            client.responses.create(model="tiny", input="Hello", max_output_tokens=8, temperature=0, stream=True)
        )
        chat = client.chat.completions.create(
            model="tiny", messages=[{"role": "user", "content": "x"}], n=2, logprobs=True, top_logprobs=1, max_tokens=3
        )
    assert whole.usage is not None
    assert whole.usage.output_tokens == 8
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == whole.output_text
    assert events[-1].type == "response.completed"
    assert len(chat.choices) == 2
    assert chat.choices[1].logprobs is not None
    assert len(chat.choices[1].logprobs.content or ()) == 3


ASKED: list[openai.types.chat.ChatCompletionMessageParam] = [{"role": "user", "content": "Which animal?"}]


class Animal(pydantic.BaseModel):
    """What an answer must be."""

    kind: Literal["cat", "dog"]
    sure: bool


def test_json_modes_reach_vllm_whole_and_streamed(real: RunningProserve) -> None:
    with openai.OpenAI(base_url=f"{real.http}/v1", api_key="sk-demo-interactive", max_retries=0, timeout=300) as client:
        parsed = client.chat.completions.parse(model="tiny", messages=ASKED, response_format=Animal, max_tokens=100)
        with client.chat.completions.stream(
            model="tiny", messages=ASKED, response_format=Animal, max_tokens=100
        ) as stream:
            streamed = stream.get_final_completion()
        free = client.chat.completions.create(
            model="tiny", messages=ASKED, response_format={"type": "json_object"}, max_tokens=20, temperature=0
        )
        with pytest.raises(openai.BadRequestError, match="nonsense"):
            client.chat.completions.create(
                model="tiny", messages=ASKED,
                response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "nonsense"}}},
            )  # fmt: skip
    for answer in (parsed, streamed):
        assert answer.choices[0].finish_reason == "stop"
        assert answer.choices[0].message.parsed is not None
    assert (free.choices[0].message.content or "").startswith("{")


def test_tools_reach_vllm_and_calls_come_back_whole_and_streamed(real: RunningProserve) -> None:
    tool = openai.pydantic_function_tool(Animal, name="look")
    # This grammar does allow spaces; the penalty makes them rare.
    sampling = {"max_tokens": 600, "temperature": 0, "frequency_penalty": 2.0}
    asked: Any = {"model": "tiny", "messages": ASKED, "tools": [tool], **sampling}
    asked["tool_choice"] = {"type": "function", "function": {"name": "look"}}
    with openai.OpenAI(base_url=f"{real.http}/v1", api_key="sk-demo-interactive", max_retries=0, timeout=300) as client:
        whole = client.chat.completions.create(**asked).choices[0].message.tool_calls
        chunks = list(client.chat.completions.create(**asked, stream=True))
    assert whole is not None
    parts = [call.function for chunk in chunks for each in chunk.choices for call in each.delta.tool_calls or ()]
    for name, arguments in (
        (whole[0].function.name, whole[0].function.arguments),
        ("".join(part.name or "" for part in parts if part), "".join(part.arguments or "" for part in parts if part)),
    ):
        assert name == "look"
        Animal.model_validate_json(arguments)


def test_embeddings_are_vllms_own(real: RunningProserve) -> None:
    with openai.OpenAI(base_url=f"{real.http}/v1", api_key="sk-demo-interactive", max_retries=0, timeout=300) as client:
        made = client.embeddings.create(model="embedder", input=["Hello", "Hello", "Goodbye"])
        with pytest.raises(openai.NotFoundError):
            client.embeddings.create(model="tiny", input="Hello")
    first, again, other = [each.embedding for each in made.data]
    assert first == pytest.approx(again, abs=1e-5)
    assert first != pytest.approx(other, abs=1e-2)
    assert made.usage.prompt_tokens > 3


def test_grpc_streams_what_the_whole_answer_says(real: RunningProserve) -> None:
    request = inference_pb2.GenerateRequest(
        model="tiny", prompt="Hello", sampling=inference_pb2.Sampling(max_tokens=8, temperature=0)
    )
    metadata = (("authorization", "Bearer sk-demo-batch"),)
    with grpc.insecure_channel(real.grpc) as channel:
        stub = InferenceStub(channel)  # type: ignore[no-untyped-call]
        whole = stub.Generate(request, metadata=metadata, timeout=300)
        parts = list(stub.GenerateStream(request, metadata=metadata, timeout=300))
    assert "".join(part.text for part in parts) == whole.text
    assert whole.served.priority_class == "batch"


async def test_greedy_streams_go_on_token_by_token_when_their_engine_is_killed(real: RunningProserve) -> None:
    headers = {"authorization": "Bearer sk-demo-interactive"}
    # Half of the answers of random weights are no UTF-8: characters are cut everywhere.
    texts = ("Hello", "Tell me a story — größer, 語", "x = [1, 2, 3]")
    questions = [Question(text=text, chat=chat, max_tokens=TOKENS) for text in texts for chat in (True, False)]

    async def kill(engines: list[str]) -> None:
        async with httpx.AsyncClient(base_url=real.admin, timeout=120) as admin:
            status = (await admin.get("/status")).json()["engines"]
        port = next(each["url"] for each in status if each["name"] == engines[0]).rsplit(":", 1)[1]
        killed = [pid for pid, command in real.descendants().items() if f"--port {port}" in command]
        assert killed
        for pid in killed:
            os.kill(pid, signal.SIGKILL)

    async with httpx.AsyncClient(base_url=real.http, headers=headers, timeout=600) as client:
        expected = await whole_answers(client, questions)
        stops = [late_stop(text) for text in expected]
        questions += [msgspec.structs.replace(each, stop=stop) for each, stop in zip(questions, stops, strict=True)]
        expected += [text[: text.find(stop)] for text, stop in zip(expected, stops, strict=True)]
        said = await interrupted(client, questions, kill, after_events=20)
    assert [each.error for each in said] == [""] * len(questions)
    assert [each.text for each in said] == expected
    to_the_end, stopped = said[: len(stops)], said[len(stops) :]
    assert {(each.finish_reasons, each.completion_tokens) for each in to_the_end} == {(("length",), TOKENS)}
    assert {each.finish_reasons for each in stopped} == {("stop",)}
    assert {each.ids for each in said} == {1}
    assert "stream broken, continued" in real.text
