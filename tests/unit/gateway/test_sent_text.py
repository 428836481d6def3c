"""Where another engine goes on in a stream with stop strings: no character lost, doubled or made up, and no token drawn
anew of which something was sent."""

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from proserve_gateway.relay.token_trail import TokenTrail

SPECIAL = "<|special|>"
TOKENS = st.lists(st.sampled_from(["a", "b", "ab", "aaa", SPECIAL, '"\\', "\u8a9e"]), min_size=1, max_size=14)


def visible(tokens: list[str]) -> str:
    return "".join(token for token in tokens if token != SPECIAL)


def event(text: str, ids: range) -> bytes:
    choice = {"index": 0, "text": text, "token_ids": list(ids)}
    return b"data: " + msgspec.json.encode({"choices": [choice], "prompt_token_ids": [0]}) + b"\n\n"


def streamed(tokens: list[str], *, kept: int, cuts: list[int]) -> tuple[TokenTrail, str]:
    """What is known of a stream of these tokens, sent in chunks that end at these cuts, and the text that was sent."""
    trail, sent = TokenTrail(kept), ""
    ends = sorted({cut for cut in cuts if cut < len(tokens)} | {len(tokens)})
    for begin, end in zip([0, *ends], ends, strict=False):
        said = visible(tokens[:end])
        text = said[len(sent) : max(len(sent), len(said) - kept)]
        trail.take(event(text, range(begin, end)))
        sent += text
    return trail, sent


def go_on(trail: TokenTrail, tokens: list[str]) -> tuple[str, str]:
    """What the continuation does: text that is held back and text that comes again."""
    sent = trail.sent
    begin, end = sent.bounds
    trail.drop_behind(end)
    while trail.end > begin:
        held = sent.held_in("".join([tokens[id_] for id_ in trail.since(begin)]))
        if held is not None:
            sent.go_on(trail.end)
            return held, ""
        trail.drop_last()
    trail.drop_behind(sent.whole_end)
    sent.go_on(trail.end)
    return "", sent.part


@given(tokens=TOKENS, kept=st.integers(0, 6), cuts=st.lists(st.integers(1, 13)))
def test_text_goes_on_where_it_broke_off(tokens: list[str], kept: int, cuts: list[int]) -> None:
    trail, sent = streamed(tokens, kept=kept, cuts=cuts)
    held, again = go_on(trail, tokens)
    assert sent + held == visible(tokens[: trail.output_tokens]) + again
    # Once more, before the second engine brought anything.
    assert go_on(trail, tokens) == (held, again)


@given(tokens=TOKENS, kept=st.integers(1, 6))
def test_tokens_that_come_one_by_one_are_kept_if_something_of_them_was_sent(tokens: list[str], kept: int) -> None:
    trail, _ = streamed(tokens, kept=kept, cuts=list(range(len(tokens))))
    _, again = go_on(trail, tokens)
    # Of the first characters, as many as are held back, nobody knows with which token they came.
    assert again == "" or trail.output_tokens == 0


def test_text_that_comes_with_an_empty_one_counts() -> None:
    trail, empty = TokenTrail(), event("", range(3, 5))
    trail.take(empty + event("a", range(3)))
    end = trail.end
    trail.take(empty)
    assert trail.sent.whole_end == end
