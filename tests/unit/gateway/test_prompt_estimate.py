"""The estimate of a prompt's length follows the tenant's own prompts, short and long, and nobody else's."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proserve_core.objectives import DEFAULT_CLASS
from proserve_core.routing import make_room
from proserve_gateway.fleet.fleet import Fleet
from proserve_gateway.requests.body import BodyKind, parse_body
from proserve_gateway.requests.inference_request import InferenceRequest
from proserve_gateway.requests.prompt_estimate import MOST_BYTES_PER_TOKEN, PromptEstimator, least_tokens
from proserve_gateway.requests.routing_requests import RoutingRequests

LONG_BYTES, LONG_TOKENS = 4000, 1035


def taught(*prompts: tuple[int, int], tenant: str = "a", times: int = 1) -> PromptEstimator:
    estimator = PromptEstimator()
    for _ in range(times):
        for size, tokens in prompts:
            estimator.learn("pool", tenant, size, tokens)
    return estimator


def test_text_is_taken_for_english_until_something_was_answered() -> None:
    assert PromptEstimator().estimate("pool", "a", LONG_BYTES) == 1000
    assert PromptEstimator().estimate("pool", "a", 0) == 1


@pytest.mark.parametrize("tokens_per_byte", [0.15, 0.25, 0.6])
def test_ratio_and_what_any_prompt_costs_are_learned(tokens_per_byte: float) -> None:
    prompts = [(size, round(30 + tokens_per_byte * size)) for size in (60, 800, 2500, 9000)]
    estimator = taught(*prompts, times=30)
    for size, tokens in prompts:
        assert estimator.estimate("pool", "a", size) == pytest.approx(tokens, rel=0.2, abs=40)


def test_short_chats_leave_long_prompts_as_they_are() -> None:
    estimator = taught((40, 40), times=200)
    assert estimator.estimate("pool", "a", 40) == pytest.approx(40, abs=2)
    assert estimator.estimate("pool", "a", LONG_BYTES) == pytest.approx(LONG_TOKENS, rel=0.1)


def test_what_another_tenant_sends_changes_nothing() -> None:
    # Pictures by address: 9,000 tokens on 40 bytes.
    estimator = taught((40, 9000), tenant="other", times=200)
    assert estimator.estimate("pool", "a", LONG_BYTES) == 1000


@pytest.mark.parametrize("size", [47_702, 16_900], ids=["every letter escaped", "UTF-8"])
def test_russian_is_not_said_to_have_more_tokens_than_it_has(size: int) -> None:
    """A hundred times the first sentence of Anna Karenina, counted by the tokenizer tekken (240718)."""
    tokens = 2_901
    assert least_tokens(size) <= tokens
    assert taught((size, tokens), times=100).estimate("pool", "a", size) == pytest.approx(tokens, rel=0.02)


@given(st.lists(st.tuples(st.integers(0, 4 * 2**20), st.integers(0, 10**8)), max_size=50), st.integers(0, 4 * 2**20))
def test_estimate_is_finite_and_positive_whatever_engines_report(prompts: list[tuple[int, int]], size: int) -> None:
    estimated = taught(*prompts).estimate("pool", "a", size)
    assert 1 <= estimated <= 10**8 * 2 + size
    assert least_tokens(size) <= max(estimated, size / MOST_BYTES_PER_TOKEN)


@pytest.mark.parametrize(("prompt", "learned"), [("q" * 400, True), (list(range(100, 200)), False)])
def test_prompt_of_token_ids_teaches_nothing_about_text(prompt: object, learned: bool) -> None:
    routes = RoutingRequests(fleet=Fleet(make_room=lambda _: make_room("round-robin"), clock=float), clock=float)

    def request(prompt: object) -> InferenceRequest:
        body = parse_body(BodyKind.COMPLETION, json.dumps({"model": "tiny", "prompt": prompt}).encode())
        return InferenceRequest(
            id="r", arrival_s=0.0, terms=DEFAULT_CLASS.terms(), tenant="a", pool="pool", path="/v1/completions",
            body=body,
        )  # fmt: skip

    text = request("q" * 4000)
    before = routes.prompt_tokens(text)
    for _ in range(50):
        routes.prompt_counted(request(prompt), 10)
    assert (routes.prompt_tokens(text) != before) is learned
