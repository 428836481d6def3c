"""One answer's count of tokens does not decide what a class is expected to bring; all answers together do."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proserve_core.routing.output_lengths import FIRST_GUESS_TOKENS, FORGETTING, OutputLengths
from proserve_gateway.seeing.length_bounds import GROWTH, TIMES_EXPECTED, LengthBounds


class Learned:
    """The mean of one class."""

    def __init__(self) -> None:
        self._means, self._bounds = OutputLengths(), LengthBounds()

    @property
    def mean(self) -> float:
        return self._means.expected(model="m", priority_class="c")

    def take(self, tokens: float) -> None:
        counted = self._bounds.believed(tokens, model="m", priority_class="c", expected=self.mean)
        self._means.finished(model="m", priority_class="c", tokens=counted)


@settings(max_examples=30)
@given(short=st.integers(1, 100), longer=st.integers(1, 2000), every=st.integers(2, 100))
def test_mean_of_answers_of_two_kinds_is_learned(short: int, longer: int, every: int) -> None:
    lengths = [float(short)] * (every - 1) + [float(short * longer)]
    learned, means = Learned(), []
    for _ in range(24 + 400 // every):
        for tokens in lengths:
            learned.take(tokens)
            means.append(learned.mean)
    settled = means[len(means) // 2 :]
    assert sum(settled) / len(settled) == pytest.approx(sum(lengths) / every, rel=0.25)


@given(usual=st.integers(1, 5000), absurd=st.integers(1, 10**9))
def test_one_absurd_answer_moves_the_mean_a_little(usual: int, absurd: int) -> None:
    learned = Learned()
    for tokens in [usual] * 50 + [absurd]:
        learned.take(tokens)
    most = TIMES_EXPECTED * max(usual, FIRST_GUESS_TOKENS)
    assert learned.mean <= usual + FORGETTING * most


@given(lengths=st.lists(st.integers(1, 10**6), min_size=1, max_size=60), absurd=st.integers(1, 10**9))
def test_nothing_counts_for_more_than_it_is_or_than_its_class_has_shown(lengths: list[int], absurd: int) -> None:
    bounds = LengthBounds()
    expected = 128.0
    for tokens in lengths:
        assert bounds.believed(tokens, model="m", priority_class="c", expected=expected) <= tokens
    most = max(TIMES_EXPECTED * expected, GROWTH * max(lengths))
    assert bounds.believed(absurd, model="m", priority_class="c", expected=expected) <= min(absurd, most)


def test_classes_and_models_have_bounds_of_their_own() -> None:
    bounds = LengthBounds()
    for _ in range(20):
        bounds.believed(50_000, model="m", priority_class="c", expected=10)
    assert bounds.believed(50_000, model="m", priority_class="c", expected=10) == 50_000
    assert bounds.believed(50_000, model="m", priority_class="other", expected=10) == 80
    assert bounds.believed(50_000, model="other", priority_class="c", expected=10) == 80
