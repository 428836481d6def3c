"""`llumnix`: free blocks per request."""

from fleet_builders import capacity, choose, decode_row, engine_view, prefill_row, routing_request, sent
from proserve_core.routing.llumnix import Llumnix


def test_most_free_blocks_per_request_win() -> None:
    few_large = engine_view("a", capacity(decode_row(9000), free_blocks=600))
    many_small = engine_view("b", capacity(*(decode_row(10 + row) for row in range(4)), free_blocks=1000))
    assert choose(Llumnix(), routing_request(10), few_large, many_small).engine == "a"


def test_idle_engine_comes_first_however_small() -> None:
    small = engine_view("small", capacity(free_blocks=10))
    large = engine_view("large", capacity(decode_row(10), free_blocks=10_000))
    assert choose(Llumnix(), routing_request(10), large, small).engine == "small"


def test_blocks_of_what_waits_and_of_what_was_sent_are_spoken_for() -> None:
    waiting = engine_view("a", capacity(decode_row(10), prefill_row(8000), free_blocks=1000))
    sent_to = engine_view("b", capacity(decode_row(10), free_blocks=1000), sent(routing_request(4000, name="x")))
    assert choose(Llumnix(), routing_request(10), waiting, sent_to).engine == "b"
