"""Token ids of a stream: kept exactly, and gone from what the client gets, whatever the cuts and the spelling."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proserve_gateway.relay.token_trail import TokenTrail


def event(value: dict[str, Any], separators: tuple[str, str]) -> bytes:
    return f"data: {json.dumps(value, separators=separators)}\n\n".encode()


def stream(chat: bool, tokens: list[list[int] | None]) -> list[dict[str, Any]]:
    """Chunks as vLLM writes them, with a text that looks like ids."""
    chunks: list[dict[str, Any]] = []
    if chat:
        chunks.append({"choices": [{"index": 0, "delta": {"content": ""}}], "prompt_token_ids": [5, 6], "usage": {}})
    for number, ids in enumerate(tokens):
        text = ',"token_ids":[1,2] ]'
        choice: dict[str, Any] = {"index": 0, "text": text, "finish_reason": None}
        if not chat:
            choice["prompt_token_ids"] = [5, 6] if number == 0 else None
        choice["token_ids"] = ids
        chunks.append({"choices": [choice], "usage": {"completion_tokens": number}})
    return chunks


def without_ids(chunk: dict[str, Any]) -> dict[str, Any]:
    made = {key: value for key, value in chunk.items() if key != "prompt_token_ids"}
    names = ("prompt_token_ids", "token_ids")
    made["choices"] = [{k: v for k, v in choice.items() if k not in names} for choice in chunk["choices"]]
    return made


@pytest.mark.parametrize("chat", [True, False])
@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": ")])
@given(
    tokens=st.lists(st.none() | st.lists(st.integers(0, 2**32), max_size=3), min_size=1, max_size=6),
    together=st.integers(1, 4),
)
def test_ids_are_kept_and_removed(
    chat: bool, separators: tuple[str, str], tokens: list[list[int] | None], together: int
) -> None:
    chunks = stream(chat, tokens)
    trail = TokenTrail()
    got = b""
    for at in range(0, len(chunks), together):
        got += trail.take(b"".join(event(chunk, separators) for chunk in chunks[at : at + together]))
    ids = [id_ for some in tokens for id_ in some or ()]
    assert json.loads(trail.context()) == [5, 6, *ids]
    assert (trail.prompt_tokens, trail.output_tokens) == (2, len(ids))
    assert trail.last(2) == ids[-2:]
    assert [json.loads(line[6:]) for line in got.decode().split("\n\n")[:-1]] == list(map(without_ids, chunks))


def test_last_token_can_be_forgotten() -> None:
    trail = TokenTrail()
    for chunk in stream(True, [[1, 2], [3]]):
        trail.take(event(chunk, (",", ":")))
    trail.drop_last()
    trail.drop_last()
    assert json.loads(trail.context()) == [5, 6, 1]


def test_reasoning_is_noticed() -> None:
    trail = TokenTrail()
    trail.take(b'data: {"choices":[{"delta":{"content":"reasoning"}}]}\n\n')
    assert not trail.has_reasoning
    trail.take(b'data: {"choices":[{"delta":{"reasoning":"well"}}]}\n\n')
    assert trail.has_reasoning
