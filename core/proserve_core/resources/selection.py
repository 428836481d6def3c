"""Which class and deadlines a request gets when its client asks for others than the tenant's own.

A client may lower its request or pick a class within the tenant's maximum, never more (wire contract): otherwise
everybody would ask for the most.
"""

from proserve_core.objectives import PriorityClass, ServiceObjectives, Tenant
from proserve_core.resources.model import Resources


class UnknownClassError(ValueError):
    """The client asked for a class that does not exist; the message lists those that it may ask for."""


def allowed_class(resources: Resources, tenant: Tenant, requested: str | None = None) -> PriorityClass:
    """The class for a request of `tenant`: the `requested` one, or the tenant's maximum if that is heavier.

    Raises:
        UnknownClassError: there is no class `requested`.
    """
    own = resources.priority_class(tenant.priority_class)
    if requested is None:
        return own
    maximum = resources.priority_class(tenant.max_priority_class) if tenant.max_priority_class else own
    for chosen in resources.priority_classes:
        if chosen.name == requested:
            return maximum if chosen.weight > maximum.weight else chosen
    allowed = [item.name for item in resources.priority_classes if item.weight <= maximum.weight]
    raise UnknownClassError(f"there is no class {requested[:60]!r}; this tenant may ask for {', '.join(allowed)}")


def allowed_objectives(
    priority_class: PriorityClass, *, ttft_s: float | None = None, tpot_s: float | None = None
) -> ServiceObjectives:
    """Objectives of a request that asks for its own: later deadlines than its class's are granted, earlier ones not."""
    objectives = priority_class.objectives
    return ServiceObjectives(ttft_s=max(objectives.ttft_s, ttft_s or 0.0), tpot_s=max(objectives.tpot_s, tpot_s or 0.0))
