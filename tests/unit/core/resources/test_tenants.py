"""Tenant and Secret documents: classes, keys, quotas, and what they refer to."""

import base64

import pytest

from proserve_core.objectives import SecretKeyRef, TenantLimits
from resource_builders import (
    Data,
    document,
    engine_pool,
    errors_of,
    keyed_tenant,
    parse,
    priority_class,
    secret,
    tenant,
)

HIGH = priority_class("high", weight=2)
LOW = priority_class("low")


def in_namespace(namespace: str, data: Data) -> Data:
    return {**data, "metadata": {**data["metadata"], "namespace": namespace}}


def encoded(name: str, value: bytes) -> Data:
    return document("Secret", "keys", data={name: base64.b64encode(value).decode()})


def test_tenant_with_all_fields_is_read() -> None:
    resources = parse(
        HIGH,
        LOW,
        engine_pool(),
        secret(alice="sk-alice"),
        keyed_tenant(
            "alice",
            priorityClassName="low",
            maxPriorityClassName="high",
            limits={"requestsPerMinute": 60, "tokensPerMinute": 1000, "maxInFlight": 4},
            models=["tiny"],
        ),
    )
    (alice,) = resources.tenants
    assert (alice.namespace, alice.name) == ("default", "alice")
    assert (alice.priority_class, alice.max_priority_class, alice.anonymous) == ("low", "high", False)
    assert alice.api_keys == (SecretKeyRef(name="keys", key="alice"),)
    assert alice.limits == TenantLimits(requests_per_minute=60, tokens_per_minute=1000, max_in_flight=4)
    assert alice.models == ("tiny",)
    assert resources.api_keys(alice) == ("sk-alice",)


def test_tenant_without_key_or_anonymous_is_refused() -> None:
    (error,) = errors_of(HIGH, tenant(anonymous=None))
    assert "spec.apiKeys: is missing: nobody could send a request as this tenant" in error


def test_two_anonymous_tenants_are_refused() -> None:
    (error,) = errors_of(HIGH, tenant("a"), tenant("b"))
    assert error.startswith("test#3 (Tenant default/b): spec.anonymous: ")


@pytest.mark.parametrize("field", ["priorityClassName", "maxPriorityClassName"])
def test_class_of_tenant_exists(field: str) -> None:
    (error,) = errors_of(HIGH, tenant(**{field: "hihg"}))
    assert f"spec.{field}: there is no PriorityClass 'hihg'; did you mean 'high'?" in error


def test_maximum_class_is_at_least_as_heavy_as_the_own() -> None:
    assert errors_of(HIGH, LOW, tenant(priorityClassName="high", maxPriorityClassName="high")) == []
    (error,) = errors_of(HIGH, LOW, tenant(priorityClassName="high", maxPriorityClassName="low"))
    assert "'low' (weight 1) is lighter than the tenant's own class 'high' (weight 2)" in error


def test_reference_to_a_class_with_errors_is_no_further_error() -> None:
    (error,) = errors_of(priority_class("high", weight=0), tenant())
    assert "spec.weight" in error


def test_references_are_not_judged_when_a_document_is_not_recognised() -> None:
    (error,) = errors_of({**HIGH, "kind": "PriortyClass"}, tenant())
    assert "did you mean 'PriorityClass'?" in error


def test_tenant_that_names_one_key_twice_is_told() -> None:
    twice = [{"secretKeyRef": {"name": "keys", "key": entry}} for entry in "ab"]
    (error,) = errors_of(HIGH, tenant(anonymous=False, apiKeys=twice), secret(a="sk-a", b="sk-a"))
    assert "spec.apiKeys[1].secretKeyRef: holds the same API key as" in error


def test_model_of_tenant_is_served_by_some_pool() -> None:
    (error,) = errors_of(HIGH, engine_pool(), tenant(models=["tiny", "tinny"]))
    assert "spec.models[1]: no EnginePool serves 'tinny'; did you mean 'tiny'?" in error
    assert errors_of(HIGH, tenant(models=["anything"])) == []


def test_model_is_not_missed_when_a_pools_model_cannot_be_read() -> None:
    other = engine_pool("other", model={"name": 7, "uri": "generated://tiny"})
    (error,) = errors_of(HIGH, engine_pool(), other, tenant(models=["seven"]))
    assert "spec.model.name" in error
