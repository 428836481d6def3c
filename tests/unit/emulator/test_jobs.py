"""What the emulator makes of OpenAI request bodies."""

import json

import pytest

from proserve_core.facts import encode_facts
from proserve_core.objectives import DEFAULT_CLASS, PriorityClass, ServiceObjectives
from proserve_engine.emulator.jobs import Job, JobError, chat_job, completion_job

LIMIT = 1000


def completion(**fields: object) -> Job:
    body = {"model": "m", "prompt": "hello", **fields}
    return completion_job(json.dumps(body).encode(), model="m", max_model_length=LIMIT)


def chat(**fields: object) -> Job:
    body = {"model": "m", "messages": [{"role": "user", "content": "hello"}], **fields}
    return chat_job(json.dumps(body).encode(), model="m", max_model_length=LIMIT)


def test_token_ids_are_counted_exactly_and_text_by_its_bytes() -> None:
    assert completion(prompt=[5, 6, 7]).prompt_tokens == 3
    assert completion(prompt=[[5, 6, 7]]).prompt_tokens == 3
    assert completion(prompt="x" * 41).prompt_tokens == 11
    assert completion(prompt=["x" * 41]).prompt_tokens == 11
    assert chat(messages=[{"role": "user", "content": [{"type": "text", "text": "abcd"}]}]).prompt_tokens == 5


def test_the_client_sets_the_length_and_otherwise_the_prompt_does() -> None:
    given = completion(max_tokens=7)
    assert (given.output_tokens, given.finish_reason) == (7, "length")
    assert chat(max_tokens=3, max_completion_tokens=9).output_tokens == 9
    open_ended = completion()
    assert open_ended.finish_reason == "stop"
    assert open_ended == completion()
    assert open_ended.output_tokens != completion(prompt="something else").output_tokens


def test_without_end_of_sequence_an_open_answer_fills_the_context() -> None:
    assert completion(prompt=[1] * 10, ignore_eos=True).output_tokens == LIMIT - 10


def test_usage_with_every_event_needs_usage_to_be_asked_for() -> None:
    assert not completion(stream=True, stream_options={"continuous_usage_stats": True}).continuous_usage
    assert completion(
        stream=True, stream_options={"include_usage": True, "continuous_usage_stats": True}
    ).continuous_usage


def test_class_facts_become_terms_and_age() -> None:
    terms = PriorityClass(name="high", weight=4, objectives=ServiceObjectives(ttft_s=0.5, tpot_s=0.04)).terms()
    job = completion(vllm_xargs=encode_facts(terms, age_s=0.25))
    assert job.terms == terms
    assert job.age_s == pytest.approx(0.25)


def test_a_request_without_class_facts_is_of_the_default_class() -> None:
    assert completion().terms == DEFAULT_CLASS.terms()
    assert completion(vllm_xargs={"other": 1}).terms == DEFAULT_CLASS.terms()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"n": 2}, "n: the emulated engine gives one answer per request, got 2"),
        ({"best_of": 3}, "best_of"),
        ({"echo": True}, "echo"),
        ({"logprobs": 1}, "logprobs"),
        ({"max_tokens": 0}, "max_tokens: expected at least 1, got 0"),
        ({"max_tokens": 999}, "more than the maximum length of 1000"),
        ({"prompt": [1] * 1000}, "more than the maximum length of 1000"),
        ({"prompt": []}, "prompt: expected one text or one list of token ids"),
        ({"prompt": ["a", "b"]}, "prompt: expected one text or one list of token ids"),
        ({"prompt": 7}, r"\$.prompt"),
        ({"max_tokens": "7"}, r"\$.max_tokens"),
        ({"vllm_xargs": {"proserve_class": "high"}}, "vllm_xargs.proserve_ttft_ms"),
    ],
)
def test_what_it_cannot_do_is_refused_with_the_field(fields: dict[str, object], message: str) -> None:
    with pytest.raises(JobError, match=message) as caught:
        completion(**fields)
    assert caught.value.status == 400


def test_chat_refuses_what_needs_a_model() -> None:
    refused: tuple[dict[str, object], ...] = (
        {"tools": [{"type": "function"}]},
        {"messages": []},
        {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
        {"logprobs": True},
    )
    for fields in refused:
        with pytest.raises(JobError):
            chat(**fields)


def test_another_model_is_not_found() -> None:
    with pytest.raises(JobError, match="'x' is not served here, the model is 'm'") as caught:
        completion(model="x")
    assert caught.value.status == 404


@pytest.mark.parametrize("data", [b"", b"{", b'{"model": "m"}', b"[1]", b"\xff"])
def test_malformed_bodies_are_refused(data: bytes) -> None:
    with pytest.raises(JobError, match="request body"):
        completion_job(data, model="m", max_model_length=LIMIT)
