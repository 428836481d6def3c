"""Whatever is in the documents, the answer is resources or a list of errors."""

import copy
from contextlib import suppress
from functools import reduce
from operator import getitem
from typing import Any, cast

import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from proserve_core.resources import Document, ResourceErrors, Resources, parse_documents, parse_resources
from resource_builders import endpoint_pool, engine_pool, keyed_tenant, priority_class, secret, tenant

SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.dates()
NESTED = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | SCALARS.filter(lambda key: key == key), inner),
    max_leaves=8,
)
VALID = (
    priority_class("high", headroom={"percent": 10}, gain={"firstToken": 1}, share="1"),
    keyed_tenant("alice", limits={"maxInFlight": 1}, models=["tiny"], maxPriorityClassName="high"),
    tenant("bob"),
    secret(alice="sk-alice"),
    engine_pool(engine={"args": ["--a"], "scheduler": {"policy": "fcfs"}}, resources={"limits": {"cpu": 1}}),
    endpoint_pool(),
)


def parse_or_errors(documents: list[Any]) -> Resources | list[str]:
    try:
        return parse_documents([Document(source=f"#{index}", data=data) for index, data in enumerate(documents)])
    except ResourceErrors as refused:
        return [str(error) for error in refused.errors]


def places(data: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths of all values within `data`."""
    children = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    return [path] * bool(path) + [place for key, child in children for place in places(child, (*path, key))]


PLACES = places(list(VALID))


@settings(max_examples=30)  # drawing nested values is what takes the time
@given(st.lists(NESTED))
def test_arbitrary_documents(documents: list[Any]) -> None:
    outcome = parse_or_errors(documents)
    assert outcome == Resources() if not documents else isinstance(outcome, list)


@settings(max_examples=60)
@given(st.lists(st.tuples(st.sampled_from(PLACES), NESTED), min_size=1, max_size=3))
def test_valid_documents_with_values_replaced(changes: list[tuple[tuple[Any, ...], Any]]) -> None:
    documents: list[Any] = copy.deepcopy(list(VALID))
    for place, value in changes:
        # An earlier change may have replaced the parent.
        with suppress(LookupError, TypeError):
            reduce(getitem, place[:-1], cast(Any, documents))[place[-1]] = value
    outcome = parse_or_errors(documents)
    assert isinstance(outcome, Resources) or all("sk-alice" not in error for error in outcome)


@given(st.sampled_from(PLACES))
def test_valid_documents_with_a_value_removed(place: tuple[Any, ...]) -> None:
    documents: list[Any] = copy.deepcopy(list(VALID))
    parent: Any = documents
    for key in place[:-1]:
        parent = parent[key]
    del parent[place[-1]]
    assert parse_or_errors(documents)


@given(st.text() | st.text(alphabet="{}[]:,-&*!|>'\"#%@ \n\tab01.~<=?"))
def test_arbitrary_text(text: str) -> None:
    with suppress(ResourceErrors):
        parse_resources({"text": text})


@settings(max_examples=40)
@given(st.data())
def test_valid_text_with_characters_replaced(data: st.DataObject) -> None:
    text = yaml.safe_dump_all(VALID)
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, min(len(text), start + 20)))
    with suppress(ResourceErrors):
        parse_resources({"text": text[:start] + data.draw(st.text(max_size=10)) + text[end:]})
