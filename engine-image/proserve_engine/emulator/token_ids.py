"""Token ids of an engine that has no tokenizer: a prompt is its bytes, four to a token; an output token is its word.

A text and its ids say the same. A request that asks to go on from ids (a prompt and the words said so far) gets the
words that the uninterrupted answer would have had, as greedy sampling on a real engine gives them.
"""

import math
from collections.abc import Iterable, Sequence

BYTES_PER_TOKEN = 4

# Filler: two syllables make a word, a word is a token.
_SYLLABLES = ("ba", "de", "fi", "ko", "lu", "me", "no", "ra")
WORDS = tuple(f" {first}{second}" for first in _SYLLABLES for second in _SYLLABLES)

_FIRST_WORD = 0xFF000000
"""Above every id of a text: no byte of UTF-8 is 0xFF."""
_MASK = 0xFFFFFFFF


def text_bytes(text: str) -> bytes:
    """The tokens of a prompt as bytes, at least one token."""
    data = text.encode()
    return data.ljust(BYTES_PER_TOKEN * max(1, math.ceil(len(data) / BYTES_PER_TOKEN)), b"\0")


def ids_of(tokens: bytes) -> list[int]:
    """Ids of a prompt's tokens."""
    return [
        int.from_bytes(tokens[at : at + BYTES_PER_TOKEN], "little") for at in range(0, len(tokens), BYTES_PER_TOKEN)
    ]


def split_ids(ids: Sequence[int]) -> tuple[bytes, int]:
    """A prompt's tokens without the output tokens at its end, and how many those are."""
    said = 0
    while said < len(ids) and _FIRST_WORD <= ids[-1 - said] < _FIRST_WORD + len(WORDS):
        said += 1
    return b"".join((id_ & _MASK).to_bytes(BYTES_PER_TOKEN, "little") for id_ in ids[: len(ids) - said]), said


def word_at(seed: int, token: int) -> int:
    """Which word the output token `token` (0-based) is."""
    return (seed + token * (token + 7)) % len(WORDS)


def word_id(word: int) -> int:
    return _FIRST_WORD + word


def detokenize(ids: Iterable[int]) -> str:
    """Text of any ids."""
    pieces = (
        WORDS[id_ - _FIRST_WORD].encode()
        if _FIRST_WORD <= id_ < _FIRST_WORD + len(WORDS)
        else (id_ & _MASK).to_bytes(BYTES_PER_TOKEN, "little").rstrip(b"\0")
        for id_ in ids
    )
    return b"".join(pieces).decode(errors="replace")
