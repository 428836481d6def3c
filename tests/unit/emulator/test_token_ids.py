"""Token ids of the emulated engine: an answer that is continued from ids is the rest of the uninterrupted one."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proserve_engine.emulator.jobs import chat_job, completion_job
from proserve_engine.emulator.rendering import Rendering, words
from proserve_engine.emulator.token_ids import detokenize, ids_of, split_ids, text_bytes, word_id

LIMIT = 4096


def completion(**fields: Any) -> Any:
    body = {"model": "tiny", "return_token_ids": True, **fields}
    return completion_job(msgspec.json.encode(body), model="tiny", max_model_length=LIMIT)


def chat(*texts: str) -> Any:
    body = {"model": "tiny", "messages": [{"role": "user", "content": text} for text in texts]}
    return chat_job(msgspec.json.encode(body), model="tiny", max_model_length=LIMIT)


def output_ids(job: Any) -> list[int]:
    reply = msgspec.json.decode(Rendering(job, model="tiny", request_id="cmpl-1").whole())
    ids: list[int] = reply["choices"][0]["token_ids"]
    return ids


@given(text=st.text(st.characters(min_codepoint=1, codec="utf-8"), max_size=40))
def test_text_and_its_ids_say_the_same(text: str) -> None:
    ids = ids_of(text_bytes(text))
    assert detokenize(ids) == text
    assert split_ids(ids) == (text_bytes(text), 0)


@pytest.mark.parametrize("said", [0, 1, 15, 16])
def test_answer_continued_from_ids_is_the_rest_of_the_uninterrupted_one(said: int) -> None:
    whole = completion(prompt="Once upon a time")
    ids = output_ids(whole)
    rest = completion(prompt=[*ids_of(text_bytes("Once upon a time")), *ids[:said]])
    assert rest.prompt_tokens == whole.prompt_tokens + said
    assert rest.output_tokens == max(1, whole.output_tokens - said)
    if said < whole.output_tokens:
        assert output_ids(rest) == ids[said:]
        assert words(rest, 0, rest.output_tokens) == detokenize(ids[said:])
    assert rest.finish_reason == "stop"


def test_chat_continued_as_completion_is_the_rest_of_the_uninterrupted_one() -> None:
    whole = chat("What is it?", "A question.")
    rest = completion(prompt=[*ids_of(whole.prompt), word_id(3)])
    assert words(rest, 0, 5) == words(whole, 1, 5)


def test_texts_of_a_chat_are_kept_apart() -> None:
    assert chat("ab", "c").seed != chat("a", "bc").seed
