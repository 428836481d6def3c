"""Bodies: what is understood, what is rewritten, what stays as the client sent it. (Refusals: test_http_refusals.)"""

import json
from typing import Any

import pytest

from proserve_gateway.errors import ApiError
from proserve_gateway.requests.body import DEEPEST, MOST_CHOICES, BodyKind, parse_body
from proserve_gateway.requests.prompt_estimate import PromptEstimator


def chat(**fields: Any) -> bytes:
    return json.dumps({"model": "m", "messages": [{"role": "user", "content": "hi"}], **fields}).encode()


def completion(**fields: Any) -> bytes:
    return json.dumps({"model": "m", **fields}).encode()


def sent(body: bytes, kind: BodyKind = BodyKind.CHAT, **how: Any) -> dict[str, Any]:
    how = {"facts": None, "exact_usage": False, **how}
    found: dict[str, Any] = json.loads(parse_body(kind, body).encode(**how))
    return found


def test_prompt_reaches_the_engine_byte_for_byte() -> None:
    messages = b'[ {"role":"user", "content":"a\\u00fc\\ud83d\\ude00 \xc3\xbc"} ]'
    raw = b'{"model":"m", "messages":' + messages + b', "seed": 1.50}'
    encoded = parse_body(BodyKind.CHAT, raw).encode(facts=None, exact_usage=False)
    assert messages in encoded
    assert b"1.50" in encoded


def test_length_limit_is_read_from_either_field_the_new_name_first() -> None:
    assert parse_body(BodyKind.CHAT, chat(max_tokens=5)).max_tokens == 5
    assert parse_body(BodyKind.CHAT, chat(max_tokens=5, max_completion_tokens=3)).max_tokens == 3
    assert parse_body(BodyKind.CHAT, chat(max_tokens=None)).max_tokens is None


@pytest.mark.parametrize(
    ("prompt", "tokens", "choices"),
    [
        ("hello", None, 2),
        (["one", "two", "three"], None, 6),
        ([1, 2, 3, 4], 4, 2),
        ([[1, 2, 3], [4, 5]], 5, 4),
        ([], None, 2),
    ],
)
def test_prompts_are_counted_and_token_ids_exactly(prompt: Any, tokens: int | None, choices: int) -> None:
    body = parse_body(BodyKind.COMPLETION, completion(prompt=prompt, n=2))
    assert (body.prompt_tokens, body.choices) == (tokens, choices)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": "hi", "n": MOST_CHOICES + 1}, "n"),
        ({"prompt": ["hi"] * (MOST_CHOICES // 2 + 1), "n": 2}, "prompt"),
        ({"prompt": ["hi"] * (MOST_CHOICES + 1)}, "prompt"),
    ],
)
def test_answers_of_one_request_are_bounded(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(ApiError, match=str(MOST_CHOICES)) as caught:
        parse_body(BodyKind.COMPLETION, completion(**fields))
    assert (caught.value.status, caught.value.param) == (400, param)


def test_pairs_of_one_request_are_bounded_in_what_they_are_expected_to_cost() -> None:
    body = parse_body(BodyKind.OTHER, completion(query="x" * 1000, documents=["y"] * 100_000))
    assert body.prompt_bytes < 1_100 * MOST_CHOICES + 500_000


def test_tools_are_a_part_of_the_prompt() -> None:
    tools = [{"type": "function", "function": {"name": "f", "description": "d" * 400, "parameters": {}}}]
    plain, told = (parse_body(BodyKind.CHAT, chat(**fields)).prompt_bytes for fields in ({}, {"tools": tools}))
    assert told - plain > 400


@pytest.mark.parametrize(
    ("fields", "tokens"),
    [
        ({"input": "x" * 398}, 100),
        ({"input": ["x" * 100, "y" * 94]}, 51),
        ({"input": [5, 6, 7]}, 3),
        ({"input": [[5, 6, 7], [8]]}, 4),
        ({"messages": [{"role": "user", "content": "x" * 400}]}, 108),
        ({"query": "x" * 38, "documents": ["y" * 40, "z" * 40]}, 42),
        ({"text_1": "x" * 38, "text_2": "y" * 38}, 20),
        ({"queries": ["a" * 36, "b" * 36], "items": ["c" * 36, "d" * 36]}, 40),
        ({"input": 5}, 1),
        ({"query": None, "documents": 7}, 1),
        ({"prompt": "x" * 400}, 1),
    ],
)
def test_what_is_embedded_or_ranked_is_measured(fields: dict[str, Any], tokens: int) -> None:
    body = parse_body(BodyKind.OTHER, json.dumps({"model": "m", **fields}, separators=(",", ":")).encode())
    estimated = PromptEstimator().estimate("p", "a", body.prompt_bytes)
    assert (body.prompt_tokens or estimated) == pytest.approx(tokens, abs=2)
    assert body.choices == 1


def test_pictures_do_not_count_as_text() -> None:
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 50_000}}
    body = parse_body(BodyKind.CHAT, chat(messages=[{"role": "user", "content": [picture]}]))
    assert body.prompt_bytes < 200


def test_clients_own_stream_options_and_xargs_are_kept_beside_ours() -> None:
    body = chat(
        stream=True,
        stream_options={"include_usage": False, "include_obfuscation": False},
        vllm_xargs={"mine": [1, 2], "proserve_weight": 5},
    )
    found = sent(body, facts={"proserve_weight": 1.0}, exact_usage=True)
    assert found["stream_options"] == {
        "include_usage": True, "continuous_usage_stats": True, "include_obfuscation": False,
    }  # fmt: skip
    assert found["vllm_xargs"] == {"mine": [1, 2], "proserve_weight": 1.0}


def test_nulls_are_as_good_as_absent() -> None:
    body = chat(stream=None, stream_options=None, vllm_xargs=None, n=None)
    assert sent(body, facts={"proserve_class": "a"})["vllm_xargs"] == {"proserve_class": "a"}
    assert "vllm_xargs" not in sent(body)


def test_encoding_twice_gives_the_same() -> None:
    parsed = parse_body(BodyKind.CHAT, chat(stream=True, vllm_xargs={"a": 1}, priority=3))
    assert parsed.encode(facts=None, exact_usage=True) == parsed.encode(facts=None, exact_usage=True)


def test_embedded_prompt_needs_no_text() -> None:
    parse_body(BodyKind.COMPLETION, completion(prompt_embeds="x"))
    with pytest.raises(ApiError):
        parse_body(BodyKind.COMPLETION, completion())


def nested(levels: int, inside: str = "") -> bytes:
    """A body of so many levels."""
    return f'{{"model":"m","messages":[],"x":{"[" * (levels - 1)}{inside}{"]" * (levels - 1)}}}'.encode()


def test_bodies_may_be_as_deep_as_engines_read_and_not_deeper() -> None:
    parse_body(BodyKind.CHAT, nested(DEEPEST))
    for levels in (DEEPEST + 1, 5000, 100_000):
        with pytest.raises(ApiError, match="more than 128 levels") as caught:
            parse_body(BodyKind.CHAT, nested(levels))
        assert caught.value.code == "json_too_deep"


def test_brackets_side_by_side_or_in_strings_are_no_levels() -> None:
    parse_body(BodyKind.CHAT, nested(3, ",".join(["[]", "{}"] * 2000)))
    for text in ("[" * 5000, '\\"' + "{" * 5000, "\\\\", '\\\\\\"[['):
        parse_body(BodyKind.CHAT, nested(100, f'"{text}",' * 50 + "1"))


def test_counts_may_be_written_as_whole_floats() -> None:
    body = parse_body(BodyKind.CHAT, b'{"model":"m","messages":[],"n":2.0,"max_tokens":1e2}')
    assert (body.choices, body.max_tokens) == (2, 100)
    with pytest.raises(ApiError, match=r"n has the wrong type: Expected `int . null`, got `float`"):
        parse_body(BodyKind.CHAT, b'{"model":"m","messages":[],"n":2.5}')
