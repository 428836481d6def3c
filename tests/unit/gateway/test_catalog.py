"""The key tells the tenant, the tenant tells the class, headers may only ask for less."""

import gc
from types import FunctionType, ModuleType

import pytest

from proserve_core.objectives import PriorityClass, SecretKeyRef, ServiceObjectives, Tenant
from proserve_core.pools import EnginePool, PoolModel
from proserve_core.resources import Resources, Secret
from proserve_gateway.configuration.catalog import Catalog, qualified_name
from proserve_gateway.errors import ApiError
from proserve_gateway.security.auth import KeyRing

HIGH = PriorityClass(name="high", weight=4, objectives=ServiceObjectives(ttft_s=0.5, tpot_s=0.05))
MIDDLE = PriorityClass(name="middle", weight=2, objectives=ServiceObjectives(ttft_s=1.0, tpot_s=0.1))
LOW = PriorityClass(name="low", weight=1, objectives=ServiceObjectives(ttft_s=5.0, tpot_s=0.2))
ACME_KEY, SHOP_KEY, OLD_KEY = b"sk-acme-0123456789", b"sk-shop-0123456789", b"sk-acme-old"
ACME = Tenant(
    name="acme",
    namespace="default",
    priority_class="low",
    max_priority_class="middle",
    api_keys=(SecretKeyRef(name="keys", key="acme"), SecretKeyRef(name="keys", key="acme-old")),
)
SHOP = Tenant(
    name="shop",
    namespace="retail",
    priority_class="high",
    api_keys=(SecretKeyRef(name="keys", key="shop"),),
    models=("tiny",),
)
GUEST = Tenant(name="guest", namespace="default", priority_class="low", anonymous=True)
POOLS = (
    EnginePool(name="tiny-pool", namespace="default", model=PoolModel(name="tiny")),
    EnginePool(name="big-pool", namespace="team-a", model=PoolModel(name="big")),
)
SECRETS = (
    Secret(name="keys", namespace="default", values={"acme": ACME_KEY, "acme-old": OLD_KEY}),
    Secret(name="keys", namespace="retail", values={"shop": SHOP_KEY}),
)


def catalog(*tenants: Tenant) -> Catalog:
    return Catalog.from_resources(
        Resources(priority_classes=(HIGH, MIDDLE, LOW), tenants=tenants, engine_pools=POOLS, secrets=SECRETS)
    )


def refused(call: object, *args: object) -> ApiError:
    assert callable(call)
    with pytest.raises(ApiError) as caught:
        call(*args)
    return caught.value


def test_key_tells_the_tenant_and_its_class() -> None:
    grant = catalog(ACME, SHOP).authenticate(b"Bearer " + SHOP_KEY)
    assert (grant.tenant, grant.name, grant.terms) == (SHOP, "retail/shop", HIGH.terms())


def test_each_of_a_tenants_keys_works() -> None:
    both = catalog(ACME)
    assert both.authenticate(b"Bearer " + ACME_KEY).tenant is both.authenticate(b"bearer  " + OLD_KEY + b" ").tenant


@pytest.mark.parametrize(
    ("authorization", "message"),
    [
        (None, "no API key was sent"),
        (b"Bearer sk-wrong", "not known"),
        (b"Bearer " + ACME_KEY[:-1], "not known"),
        (b"Bearer ", "not a bearer token"),
        (b"Basic " + ACME_KEY, "not a bearer token"),
        (ACME_KEY, "not a bearer token"),
        (b"", "not a bearer token"),
    ],
)
def test_request_without_a_good_key_is_unauthenticated(authorization: bytes | None, message: str) -> None:
    error = refused(catalog(ACME).authenticate, authorization)
    assert (error.status, error.code) == (401, "invalid_api_key")
    assert message in error.message
    assert ACME_KEY.decode()[:8] not in error.message


def test_anonymous_tenant_takes_requests_without_a_key_but_not_with_a_wrong_one() -> None:
    both = catalog(ACME, GUEST)
    assert both.authenticate(None).tenant is GUEST
    assert refused(both.authenticate, b"Bearer sk-wrong").status == 401


def test_same_key_for_two_tenants_is_refused_without_showing_it() -> None:
    with pytest.raises(ValueError, match="acme and shop have the same API key") as caught:
        KeyRing([(ACME_KEY, "acme"), (ACME_KEY, "shop")])
    assert "sk-" not in str(caught.value)


def reachable(start: object) -> list[object]:
    """Everything that `start` holds on to, without modules and classes."""
    seen: dict[int, object] = {}
    todo = [start]
    while todo:
        each = todo.pop()
        if id(each) not in seen and not isinstance(each, type | ModuleType | FunctionType):
            seen[id(each)] = each
            todo += gc.get_referents(each)
    return list(seen.values())


def test_catalog_keeps_no_key_in_memory() -> None:
    held = [each for each in reachable(catalog(ACME, SHOP)) if isinstance(each, bytes | str)]
    assert "acme" in held, "the walk finds what is there"
    assert not any("sk-" in (each if isinstance(each, str) else each.decode("latin-1")) for each in held)


def test_key_does_not_show_in_reprs() -> None:
    assert "sk-" not in repr(catalog(ACME).authenticate(b"Bearer " + ACME_KEY))


def test_request_that_asks_for_nothing_gets_the_tenants_class() -> None:
    both = catalog(ACME)
    assert both.classify(both.authenticate(b"Bearer " + ACME_KEY), {}) == LOW.terms()


@pytest.mark.parametrize("header", ["x-proserve-class", "x-llm-d-inference-objective"])
def test_class_within_the_maximum_can_be_picked(header: str) -> None:
    both = catalog(ACME)
    assert both.classify(both.authenticate(b"Bearer " + ACME_KEY), {header: "middle"}) == MIDDLE.terms()


def test_class_above_the_maximum_becomes_the_maximum() -> None:
    both = catalog(ACME)
    assert both.classify(both.authenticate(b"Bearer " + ACME_KEY), {"x-proserve-class": "high"}) == MIDDLE.terms()


def test_lighter_class_is_always_allowed() -> None:
    both = catalog(SHOP)
    terms = both.classify(both.authenticate(b"Bearer " + SHOP_KEY), {"x-proserve-class": "low"})
    assert terms == LOW.terms()


def test_own_header_wins_over_the_alias() -> None:
    both = catalog(SHOP)
    headers = {"x-proserve-class": "low", "x-llm-d-inference-objective": "middle"}
    assert both.classify(both.authenticate(b"Bearer " + SHOP_KEY), headers).priority_class == "low"


def test_targets_can_be_loosened_but_not_tightened() -> None:
    both = catalog(SHOP)
    headers = {"x-proserve-ttft-ms": "900", "x-llm-d-slo-tpot-ms": "10"}
    terms = both.classify(both.authenticate(b"Bearer " + SHOP_KEY), headers)
    assert terms.objectives == ServiceObjectives(ttft_s=0.9, tpot_s=HIGH.objectives.tpot_s)


@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("x-proserve-class", "gold"),
        ("x-llm-d-inference-objective", ""),
        ("x-proserve-ttft-ms", "soon"),
        ("x-proserve-ttft-ms", "-1"),
        ("x-proserve-tpot-ms", "nan"),
        ("x-llm-d-slo-ttft-ms", "inf"),
        ("x-llm-d-slo-tpot-ms", "0"),
    ],
)
def test_header_that_makes_no_sense_is_named(header: str, value: str) -> None:
    both = catalog(SHOP)
    error = refused(both.classify, both.authenticate(b"Bearer " + SHOP_KEY), {header: value})
    assert (error.status, error.param) == (400, header)
    assert error.message.startswith(header)


def test_model_leads_to_its_pool() -> None:
    both = catalog(ACME)
    grant = both.authenticate(b"Bearer " + ACME_KEY)
    assert both.pool("tiny", grant).name == "tiny-pool"
    assert both.pool("big", grant).name == "team-a/big-pool"


@pytest.mark.parametrize("model", ["huge", "big", "", "x" * 10_000])
def test_unknown_and_forbidden_models_look_the_same(model: str) -> None:
    both = catalog(SHOP)
    error = refused(both.pool, model, both.authenticate(b"Bearer " + SHOP_KEY))
    assert (error.status, error.code, error.param) == (404, "model_not_found", "model")
    assert "you can use: tiny" in error.message
    assert len(error.message) < 300


def test_models_are_those_the_tenant_may_use() -> None:
    both = catalog(ACME, SHOP)
    assert both.models(both.authenticate(b"Bearer " + ACME_KEY)) == ["big", "tiny"]
    assert both.models(both.authenticate(b"Bearer " + SHOP_KEY)) == ["tiny"]


def test_names_of_other_namespaces_are_qualified() -> None:
    assert qualified_name("default", "chat") == "chat"
    assert qualified_name("team-a", "chat") == "team-a/chat"
