"""A gateway remembers what it sent where, within bounds."""

from hypothesis import given
from hypothesis import strategies as st

from proserve_core.routing.prefix_map import PrefixMap

KV_TOKENS = 10_000


def test_hit_is_as_long_as_the_common_beginning() -> None:
    prefixes = PrefixMap(block_tokens=100)
    prefixes.sent("a", [1, 2, 3], KV_TOKENS)
    prefixes.sent("b", [1, 2, 9], KV_TOKENS)
    assert prefixes.cached_tokens([1, 2, 3, 4], 1000) == {"a": 300, "b": 200}
    assert prefixes.cached_tokens([7, 2, 3], 1000) == {}
    assert prefixes.cached_tokens([], 1000) == {}


def test_last_token_of_a_prompt_is_never_a_hit() -> None:
    prefixes = PrefixMap(block_tokens=100)
    prefixes.sent("a", [1, 2], KV_TOKENS)
    assert prefixes.cached_tokens([1, 2], 200) == {"a": 199}
    assert prefixes.cached_tokens([1, 2], 150) == {"a": 149}


def test_engine_forgets_what_was_used_longest_ago_when_its_cache_is_full() -> None:
    prefixes = PrefixMap(block_tokens=100)
    prefixes.sent("a", [1], 200)
    prefixes.sent("a", [2], 200)
    prefixes.sent("a", [1], 200)
    prefixes.sent("a", [3], 200)
    assert [bool(prefixes.cached_tokens([block], 500)) for block in (1, 2, 3)] == [True, False, True]


def test_engine_that_is_gone_is_forgotten_and_its_place_serves_another() -> None:
    prefixes = PrefixMap(block_tokens=100)
    for name in ("a", "b"):
        prefixes.sent(name, [1, 2], KV_TOKENS)
    prefixes.keep(["b"])
    prefixes.sent("c", [1], KV_TOKENS)
    assert prefixes.cached_tokens([1, 2], 1000) == {"b": 200, "c": 100}


prompts = st.lists(st.integers(0, 30), max_size=8, unique=True)


@given(sent=st.lists(st.tuples(st.sampled_from("abc"), prompts), max_size=60), asked=prompts)
def test_memory_is_bounded_and_hits_are_prefixes_of_what_was_sent(
    sent: list[tuple[str, list[int]]], asked: list[int]
) -> None:
    prefixes = PrefixMap(block_tokens=10, max_blocks=30)
    for engine, blocks in sent:
        prefixes.sent(engine, blocks, 80)
    assert len(prefixes) <= 3 * 8
    ever = {engine: {block for name, blocks in sent if name == engine for block in blocks} for engine in "abc"}
    for engine, tokens in prefixes.cached_tokens(asked, 10_000).items():
        assert tokens > 0
        assert set(asked[: tokens // 10]) <= ever[engine]
