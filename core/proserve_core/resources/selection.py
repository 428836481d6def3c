"""Which class and deadlines a request gets when its client asks for others than the tenant's own.

A client may lower its request or pick a class within the tenant's maximum, never more (wire contract): otherwise
everybody would ask for the most.
"""

import msgspec

from proserve_core.objectives import PriorityClass, ServiceObjectives, Tenant
from proserve_core.resources.model import Resources


class UnknownClassError(ValueError):
    """The client asked for a class that does not exist; the message lists those that it may ask for."""


class ClassChoice(msgspec.Struct, frozen=True, kw_only=True):
    """The class of a request."""

    priority_class: PriorityClass
    clamped: bool
    """The client asked for a heavier class and got the tenant's maximum."""


def allowed_class(resources: Resources, tenant: Tenant, requested: str | None = None) -> ClassChoice:
    """The class for a request of `tenant`; any class that is not heavier than the tenant's maximum may be requested.

    Raises:
        UnknownClassError: there is no class `requested`.
    """
    own = resources.priority_class(tenant.priority_class)
    if requested is None:
        return ClassChoice(priority_class=own, clamped=False)
    maximum = resources.priority_class(tenant.max_priority_class) if tenant.max_priority_class else own
    for chosen in resources.priority_classes:
        if chosen.name == requested:
            heavier = chosen.weight > maximum.weight
            return ClassChoice(priority_class=maximum if heavier else chosen, clamped=heavier)
    allowed = [item.name for item in resources.priority_classes if item.weight <= maximum.weight]
    raise UnknownClassError(f"there is no class {requested[:60]!r}; this tenant may ask for {', '.join(allowed)}")


def allowed_objectives(
    priority_class: PriorityClass, *, ttft_s: float | None = None, tpot_s: float | None = None
) -> ServiceObjectives:
    """Objectives of a request that asks for its own: later deadlines than its class's are granted, earlier ones not."""
    objectives = priority_class.objectives
    return ServiceObjectives(ttft_s=max(objectives.ttft_s, ttft_s or 0.0), tpot_s=max(objectives.tpot_s, tpot_s or 0.0))
