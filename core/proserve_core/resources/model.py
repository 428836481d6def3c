"""A consistent set of resources, as everything that serves or simulates takes it."""

from collections.abc import Iterable, Mapping
from typing import TypeVar

import msgspec

from proserve_core.objectives import Overload, PriorityClass, SecretKeyRef, Tenant
from proserve_core.pools import EnginePool
from proserve_core.resources.secrets import Secret
from proserve_core.routing.registry import LATE_ROUTERS

_T = TypeVar("_T")


class WithoutEffect(msgspec.Struct, frozen=True, kw_only=True):
    """A field that a document has and that is not acted upon."""

    source: str
    path: str
    reason: str


class Resources(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that was declared, in the order of the documents. All references hold."""

    priority_classes: tuple[PriorityClass, ...] = ()
    tenants: tuple[Tenant, ...] = ()
    engine_pools: tuple[EnginePool, ...] = ()
    secrets: tuple[Secret, ...] = ()
    class_shares: Mapping[str, float] = {}
    """Share of simulated requests by class; empty, or all classes adding up to about 1."""
    without_effect: tuple[WithoutEffect, ...] = ()

    def priority_class(self, name: str) -> PriorityClass:
        """The class of that name; KeyError without it."""
        return _first(name, (item for item in self.priority_classes if item.name == name))

    def secret_value(self, namespace: str, ref: SecretKeyRef) -> str:
        """An API key or credential: printable ASCII, checked when the resources were read."""
        secret = _first(ref.name, (s for s in self.secrets if (s.namespace, s.name) == (namespace, ref.name)))
        return secret.values[ref.key].decode("ascii")

    def api_keys(self, tenant: Tenant) -> tuple[str, ...]:
        """The keys by which the tenant is recognised."""
        return tuple(self.secret_value(tenant.namespace, ref) for ref in tenant.api_keys)


def unenforced(resources: Resources) -> list[str]:
    """One line per field that some document has and that is not acted upon here."""
    lines: dict[tuple[str, str], list[str]] = {}
    for item in resources.without_effect:
        lines.setdefault((item.path, item.reason), []).append(item.source)
    found = [f"{path} {reason} ({', '.join(sources)})" for (path, reason), sources in lines.items()]
    return [*found, *without_waiting(resources)]


def without_waiting(resources: Resources) -> list[str]:
    """One line per field of classes that is not acted upon in some pools, because no request waits there."""
    pools = [pool.name for pool in resources.engine_pools if pool.routing_policy not in LATE_ROUTERS]
    fields = {
        "overload": [each.name for each in resources.priority_classes if each.overload != Overload()],
        "headroom": [each.name for each in resources.priority_classes if each.headroom is not None],
    }
    return [
        f"spec.{field} of {', '.join(classes)} has no effect in pools where no request waits "
        f"({', '.join(pools)}): set spec.routing.policy to {' or '.join(LATE_ROUTERS)} there"
        for field, classes in fields.items()
        if pools and classes
    ]


def _first(name: str, items: Iterable[_T]) -> _T:
    for item in items:
        return item
    raise KeyError(name)
