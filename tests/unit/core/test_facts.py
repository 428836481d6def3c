"""Class facts survive the way from gateway to engine, and half of them are refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proserve_core.facts import (
    AGE_MS,
    CLASS,
    CLIENT,
    PREFIX,
    TPOT_MS,
    TTFT_MS,
    WEIGHT,
    FactsError,
    decode_facts,
    encode_facts,
)
from proserve_core.objectives import ServiceObjectives, ServiceTerms

HIGH = ServiceTerms(
    priority_class="high",
    weight=4,
    first_token_gain=10,
    output_token_gain=1,
    objectives=ServiceObjectives(ttft_s=0.5, tpot_s=0.04),
)
positive = st.floats(min_value=1e-6, max_value=1e6)


def test_facts_are_flat_and_in_milliseconds() -> None:
    facts = encode_facts(HIGH, age_s=0.25)

    assert (facts[CLASS], facts[TTFT_MS], facts[TPOT_MS], facts[AGE_MS]) == ("high", 500, 40, 250)
    assert all(key.startswith(PREFIX) and isinstance(value, str | float | int) for key, value in facts.items())


@given(
    terms=st.builds(
        ServiceTerms,
        priority_class=st.text(min_size=1),
        weight=positive,
        first_token_gain=positive,
        output_token_gain=positive,
        objectives=st.builds(ServiceObjectives, ttft_s=positive, tpot_s=positive),
    ),
    age_s=st.floats(min_value=0, max_value=1e6),
    client=st.text(),
)
def test_decode_gives_back_what_was_encoded(terms: ServiceTerms, age_s: float, client: str) -> None:
    decoded = decode_facts(encode_facts(terms, age_s, client))

    assert decoded is not None
    got, got_age_s = decoded.terms, decoded.age_s
    assert decoded.client == client
    assert (got.priority_class, got.weight) == (terms.priority_class, terms.weight)
    assert (got.first_token_gain, got.output_token_gain) == (terms.first_token_gain, terms.output_token_gain)
    assert got.objectives.ttft_s == pytest.approx(terms.objectives.ttft_s)
    assert got.objectives.tpot_s == pytest.approx(terms.objectives.tpot_s)
    assert got_age_s == pytest.approx(age_s)


@pytest.mark.parametrize("extra_args", [None, {}, {"kv_transfer_params": {"a": 1}}])
def test_request_without_facts_belongs_to_the_default_class(extra_args: dict[str, object] | None) -> None:
    assert decode_facts(extra_args) is None


@pytest.mark.parametrize("key", sorted(encode_facts(HIGH, 0.0)))
def test_missing_fact_is_named(key: str) -> None:
    facts: dict[str, object] = {**encode_facts(HIGH, 0.0)}
    del facts[key]

    with pytest.raises(FactsError, match=key):
        decode_facts(facts)


@pytest.mark.parametrize("value", ["fast", None, [1.0], -1, float("nan"), float("inf"), 10**400])
def test_fact_that_is_no_usable_number_is_named_with_its_value(value: object) -> None:
    with pytest.raises(FactsError) as caught:
        decode_facts({**encode_facts(HIGH, 0.0), WEIGHT: value})

    assert WEIGHT in str(caught.value)
    assert repr(value) in str(caught.value)


@pytest.mark.parametrize("tpot_ms", [0, 1e-9])
def test_no_time_at_all_per_token_is_refused_since_loads_are_shares_of_it(tpot_ms: float) -> None:
    with pytest.raises(FactsError, match=r"tpot_ms: expected a number from 0\.001"):
        decode_facts({**encode_facts(HIGH, 0.0), TPOT_MS: tpot_ms})


@pytest.mark.parametrize("name", ["", 7, ["high"]])
def test_class_needs_a_name(name: object) -> None:
    with pytest.raises(FactsError, match=CLASS):
        decode_facts({**encode_facts(HIGH, 0.0), CLASS: name})


def test_a_client_that_is_no_text_is_refused() -> None:
    with pytest.raises(FactsError, match="proserve_client: expected a text, got 7"):
        decode_facts({**encode_facts(HIGH, 0.0), CLIENT: 7})
