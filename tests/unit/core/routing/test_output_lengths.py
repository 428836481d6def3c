"""Expected output: what finished requests of the class and model brought, within the client's limit."""

import pytest

from proserve_core.routing.output_lengths import FIRST_GUESS_TOKENS, OutputLengths


def test_before_anything_finished_there_is_a_guess_within_the_clients_limit() -> None:
    lengths = OutputLengths()
    assert lengths.expected(model="m", priority_class="high") == FIRST_GUESS_TOKENS
    assert lengths.expected(model="m", priority_class="high", max_tokens=8) == 8


def test_mean_follows_what_finished_lately() -> None:
    lengths = OutputLengths()
    for tokens in [10] * 100 + [300] * 300:
        lengths.finished(model="m", priority_class="high", tokens=tokens)
    assert lengths.expected(model="m", priority_class="high") == pytest.approx(300, rel=0.01)


def test_classes_and_models_are_learned_apart() -> None:
    lengths = OutputLengths()
    lengths.finished(model="m", priority_class="high", tokens=10)
    assert lengths.expected(model="m", priority_class="high") == 10
    assert lengths.expected(model="m", priority_class="low") == FIRST_GUESS_TOKENS
    assert lengths.expected(model="other", priority_class="high") == FIRST_GUESS_TOKENS
