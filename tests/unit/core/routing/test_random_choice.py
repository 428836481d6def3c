"""`random` gives each engine its share, and the same request the same engine."""

from fleet_builders import choose, engine_view, routing_request
from proserve_core.routing.random_choice import RandomChoice

ENGINES = [engine_view(name, None) for name in "abcd"]


def engines_of(router: RandomChoice, requests: int) -> list[str]:
    return [choose(router, routing_request(1, name=f"r{number}"), *ENGINES).engine for number in range(requests)]


def test_every_engine_gets_about_its_share() -> None:
    chosen = engines_of(RandomChoice(), 4000)
    assert all(900 < chosen.count(name) < 1100 for name in "abcd")


def test_draws_belong_to_requests_and_change_with_the_seed() -> None:
    assert engines_of(RandomChoice(), 50) == engines_of(RandomChoice(), 50)
    assert engines_of(RandomChoice(), 50) != engines_of(RandomChoice(seed=1), 50)
