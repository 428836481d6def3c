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


def test_model_of_tenant_is_served_by_some_pool() -> None:
    (error,) = errors_of(HIGH, engine_pool(), tenant(models=["tiny", "tinny"]))
    assert "spec.models[1]: no EnginePool serves 'tinny'; did you mean 'tiny'?" in error
    assert errors_of(HIGH, tenant(models=["anything"])) == []


@pytest.mark.parametrize("models", [[], ["a", "a"], [""], "a", [5]])
def test_models_is_a_list_of_different_names(models: object) -> None:
    assert len(errors_of(HIGH, tenant(models=models))) == 1


def test_missing_secret_and_missing_entry_are_named() -> None:
    (error,) = errors_of(HIGH, secret("kyes", alice="x"), keyed_tenant("alice"))
    assert "apiKeys[0].secretKeyRef.name: there is no Secret 'keys' in namespace default; did you mean 'kyes'?" in error
    (error,) = errors_of(HIGH, secret(alicia="x"), keyed_tenant("alice"))
    assert "secretKeyRef.key: test#2 (Secret default/keys) has no entry 'alice'; did you mean 'alicia'?" in error


def test_secret_is_looked_up_in_the_tenants_namespace() -> None:
    other = in_namespace("team-a", keyed_tenant("alice"))
    (error,) = errors_of(HIGH, secret(alice="x"), other)
    assert "there is no Secret 'keys' in namespace team-a" in error
    assert errors_of(HIGH, in_namespace("team-a", secret(alice="x")), other) == []


def test_same_names_in_two_namespaces_are_different() -> None:
    documents = [
        in_namespace(namespace, data)
        for namespace in ("team-a", "team-b")
        for data in (secret(alice=f"sk-{namespace}"), keyed_tenant("alice"))
    ]
    resources = parse(HIGH, *documents)
    assert [resources.api_keys(each) for each in resources.tenants] == [("sk-team-a",), ("sk-team-b",)]


def test_same_key_for_two_tenants_is_refused_without_showing_it() -> None:
    (error,) = errors_of(HIGH, secret(a="sk-same", b="sk-same"), keyed_tenant("a"), keyed_tenant("b"))
    assert "(Tenant default/b): spec.apiKeys[0].secretKeyRef: holds the same API key as test#3" in error
    assert "sk-same" not in error


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (b"sk-x\n", "begins or ends with white space"),
        (b"", "is empty"),
        (b"sk x", "characters that a bearer token can't have"),
        ("sk-é".encode(), "characters that a bearer token can't have"),
    ],
)
def test_key_that_no_client_could_send_is_refused_without_showing_it(value: bytes, says: str) -> None:
    (error,) = errors_of(HIGH, encoded("alice", value), keyed_tenant("alice"))
    assert says in error
    assert "sk" not in error


def test_secret_entries_come_from_data_and_string_data_wins() -> None:
    data = {**encoded("alice", b"old"), "stringData": {"alice": "new"}, "type": "Opaque", "immutable": True}
    resources = parse(HIGH, data, keyed_tenant("alice"))
    assert resources.api_keys(resources.tenants[0]) == ("new",)


def test_secret_data_that_is_not_base64_is_refused_without_showing_it() -> None:
    (error,) = errors_of(HIGH, document("Secret", "keys", data={"alice": "sk-plain!"}), keyed_tenant("alice"))
    assert "data[alice]: is not base64 (value hidden); encode it, or write it plainly under stringData" in error


@pytest.mark.parametrize("value", [5, None, ["sk-x"], 12345.5])
def test_secret_value_of_another_type_is_refused_without_showing_it(value: object) -> None:
    (error,) = errors_of(document("Secret", "keys", stringData={"alice": value}))
    assert "stringData[alice]" in error
    assert "12345" not in error


def test_values_of_secrets_do_not_appear_in_a_repr() -> None:
    assert "sk-alice" not in repr(parse(secret(alice="sk-alice")))
