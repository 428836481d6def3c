"""Stop strings across the seam between two engines: as if one engine had searched the whole text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proserve_gateway.relay.sse import SseError
from proserve_gateway.relay.stop_strings import StopStrings, kept_chars

TEXT = st.text(alphabet="abc", max_size=20)
STOPS = st.lists(st.text(alphabet="abc", min_size=1, max_size=4), min_size=1, max_size=3)


@given(text=TEXT, stops=STOPS, cuts=st.lists(st.integers(0, 20), max_size=6), seam=st.integers(0, 20))
def test_cuts_do_not_matter(text: str, stops: list[str], cuts: list[int], seam: int) -> None:
    # What the first engine had when it failed holds no stop string: it would have ended there.
    first = text[:seam]
    while any(stop in first for stop in stops):
        first = first[:-1]
    kept = kept_chars(stops)
    held = first[max(0, len(first) - kept) :]
    sent, found = first[: len(first) - len(held)], None
    search = StopStrings(stops, held)
    bounds = sorted({len(first), *(cut for cut in cuts if len(first) < cut < len(text)), len(text)})
    for start, end in zip(bounds, [*bounds[1:], len(text)], strict=True):
        piece, found = search.feed(text[start:end], last=end == len(text))
        sent += piece
        if found is not None or end == len(text):
            break
    if found is None:
        assert sent == text
        assert not any(stop in text for stop in stops)
    else:
        assert text.startswith(sent + found)
        assert not any(stop in sent for stop in stops)


def test_text_without_stop_strings_is_not_held_back() -> None:
    assert kept_chars([]) == kept_chars([""]) == 0
    assert StopStrings([], "").feed("abc", last=False) == ("abc", None)


def test_text_that_comes_again_is_sent_once() -> None:
    search = StopStrings(["xyz"], "", again="abc")
    assert search.feed("abc", last=False) == ("", None)
    assert search.feed("def", last=False) == ("d", None)
    assert search.feed("xyz", last=False) == ("ef", "xyz")


@pytest.mark.parametrize(("text", "last"), [("abX.....", False), ("ab", True), ("axyz", False)])
def test_other_text_than_what_was_sent_is_an_error(text: str, last: bool) -> None:
    search = StopStrings(["xyz"], "", again="abc")
    with pytest.raises(SseError, match="not those that were sent"):
        search.feed(text, last=last)
