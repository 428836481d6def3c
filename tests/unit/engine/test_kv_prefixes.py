"""Whose host blocks a request begins with."""

import random

from proserve_core.blocks import Holding
from proserve_engine.kv.prefixes import HostPrefixes


def row(prefixes: HostPrefixes, name: str, hashes: str) -> Holding:
    holding = Holding(request_id=name)
    prefixes.extend(holding, 0, hashes_of(hashes))
    return holding


def hashes_of(text: str) -> list[str]:
    """As vLLM's, each depends on all before it."""
    return [text[: end + 1] for end in range(len(text))]


def test_the_longest_common_beginning_is_found() -> None:
    prefixes = HostPrefixes()
    row(prefixes, "short", "ab")
    long = row(prefixes, "long", "abcd")
    assert prefixes.longest(hashes_of("abcx")) == (long, 3)
    assert prefixes.longest(hashes_of("xbcd")) is None
    assert prefixes.longest([]) is None


def test_what_one_row_loses_is_found_in_another() -> None:
    prefixes = HostPrefixes()
    first, second = row(prefixes, "first", "abc"), row(prefixes, "second", "abc")
    prefixes.cut(first, 1)
    assert prefixes.longest(hashes_of("abc")) == (second, 3)
    prefixes.cut(second, 0)
    assert prefixes.longest(hashes_of("abc")) == (first, 1)
    prefixes.cut(first, 0)
    assert prefixes.longest(hashes_of("abc")) is None


def test_a_row_with_a_gap_is_found_up_to_the_gap() -> None:
    prefixes = HostPrefixes()
    holding = row(prefixes, "r", "ab")
    prefixes.extend(holding, 3, ["abcd"])
    assert prefixes.longest(hashes_of("abcd")) == (holding, 2)


def test_it_finds_what_looking_at_every_row_finds() -> None:
    draw = random.Random(3)
    for _ in range(200):
        prefixes = HostPrefixes()
        rows = {row(prefixes, str(n), text): text for n in range(8) if (text := words(draw))}
        for each in list(rows):
            rows[each] = rows[each][: draw.randrange(len(rows[each]) + 1)]
            prefixes.cut(each, len(rows[each]))
        asked = words(draw)
        most = max((common(asked, text) for text in rows.values()), default=0)
        found = prefixes.longest(hashes_of(asked))
        if most == 0:
            assert found is None
        else:
            assert found is not None
            assert found[1] == most == common(asked, rows[found[0]])


def words(draw: random.Random) -> str:
    return "".join(draw.choice("ab") for _ in range(draw.randrange(6)))


def common(one: str, other: str) -> int:
    return next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
