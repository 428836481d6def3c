"""The `openai` package against `proserve up`, as users have it."""

import openai
import pytest

from running_proserve import RunningProserve


def connect(running: RunningProserve, key: str = "sk-demo-interactive") -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{running.http}/v1", api_key=key, max_retries=0, timeout=120)


def test_chat_streams_what_the_whole_answer_says(shared: RunningProserve) -> None:
    with connect(shared) as client:
        whole = client.chat.completions.create(
            model="tiny", messages=[{"role": "user", "content": "Hello"}], max_tokens=12
        )
        chunks = list(
            client.chat.completions.create(
                model="tiny",
                messages=[{"role": "user", "content": "Hello"}],
                max_tokens=12,
                stream=True,
                stream_options={"include_usage": True},
            )
        )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "length"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 12
    assert [chunk.usage for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)


def test_completions_stream_too(shared: RunningProserve) -> None:
    with connect(shared) as client:
        whole = client.completions.create(model="tiny", prompt="Hello", max_tokens=5)
        chunks = list(client.completions.create(model="tiny", prompt="Hello", max_tokens=5, stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == whole.choices[0].text
    assert whole.usage is not None
    assert whole.usage.completion_tokens == 5


def test_errors_are_the_packages_own(shared: RunningProserve) -> None:
    with connect(shared, "sk-wrong") as client, pytest.raises(openai.AuthenticationError):
        client.models.list()
    with connect(shared) as client, pytest.raises(openai.NotFoundError, match="huge"):
        client.chat.completions.create(model="huge", messages=[{"role": "user", "content": "x"}])
