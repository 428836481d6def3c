"""A gateway learns output lengths from the streams that it passes on."""

import pytest

from engine_builders import service_terms
from proserve_core.clues import LengthClues
from proserve_core.routing.length_forecast import LengthForecast


def serve(forecast: LengthForecast, count: int, *, client: str, tokens: int, at_s: float = 0.0) -> None:
    for number in range(count):
        name = f"{client}-{at_s}-{number}"
        arrive(forecast, name, client=client, at_s=at_s)
        forecast.ended(name, tokens, complete=True)


def arrive(
    forecast: LengthForecast, name: str, *, client: str = "", max_tokens: int | None = None, at_s: float = 0.0
) -> float:
    clues = LengthClues(client=client, max_tokens=max_tokens)
    return forecast.arrived(name, terms=service_terms(), prompt_tokens=500, clues=clues, now_s=at_s)


def test_clients_are_told_apart() -> None:
    forecast = LengthForecast()
    serve(forecast, 60, client="short", tokens=10)
    serve(forecast, 60, client="long", tokens=400)
    assert arrive(forecast, "x", client="short", at_s=5.0) < 40
    assert arrive(forecast, "y", client="long", at_s=5.0) > 250


def test_limit_of_the_client_is_kept() -> None:
    forecast = LengthForecast()
    serve(forecast, 60, client="long", tokens=400)
    assert arrive(forecast, "x", client="long", max_tokens=7, at_s=5.0) <= 7


def test_outputs_that_still_run_count_with_what_they_have_emitted() -> None:
    """Of two hundred requests only those with ten tokens have ended; the rest are at a thousand."""
    ended, running = LengthForecast(), LengthForecast()
    for forecast in (ended, running):
        for number in range(150):
            arrive(forecast, f"runs-{number}")
        serve(forecast, 50, client="", tokens=10)
    running.progressed({f"runs-{number}": 1000 for number in range(150)}, now_s=5.0)
    assert arrive(running, "x", at_s=10.0) > 10 * arrive(ended, "x", at_s=10.0)


def test_output_that_was_cut_off_is_no_end() -> None:
    forecast, other = LengthForecast(), LengthForecast()
    for each in (forecast, other):
        serve(each, 50, client="", tokens=100)
    for number in range(50):
        arrive(forecast, f"cut-{number}")
        forecast.ended(f"cut-{number}", 1, complete=False)
    assert arrive(forecast, "x", at_s=5.0) == pytest.approx(arrive(other, "x", at_s=5.0), rel=0.1)
