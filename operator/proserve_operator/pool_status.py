"""The status of an EnginePool from what is known of it. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from proserve_core.pools import EnginePool
from proserve_core.resources.conditions import Reason
from proserve_core.resources.errors import ResourceError
from proserve_operator.conditions import Condition
from proserve_operator.names import selector_text
from proserve_operator.rollout_turns import WAITING, rollout_state


class Refusal(msgspec.Struct, frozen=True, kw_only=True):
    """Why an object of the pool is not as it should be."""

    reason: Reason
    message: str


class Observed(msgspec.Struct, frozen=True, kw_only=True):
    """What reconciliation found and did."""

    problems: tuple[ResourceError, ...] = ()
    """What is wrong with the resource."""
    pool: EnginePool | None
    """What is in force; None: it never was right."""
    desired: int = 0
    deployment: Mapping[str, Any] | None = None
    refusal: Refusal | None = None
    """None: all could be made."""
    scaling: Condition | None = None
    keys: Condition | None = None
    """Whether the keys that it names are there; None: nobody asked."""


def accepted(problems: Sequence[ResourceError]) -> Condition:
    """Whether the resource makes sense."""
    if not problems:
        return Condition(type="Accepted", status=True, reason=Reason.VALID, message="in force")
    message = "; ".join(f"{error.path}: {error.problem}; {error.fix}" for error in problems)
    return Condition(type="Accepted", status=False, reason=_why(problems), message=message)


def _why(problems: Sequence[ResourceError]) -> Reason:
    """A name that leads nowhere is told apart: it may be that the other resource is not there yet."""
    unresolved = all("there is no " in error.problem or "already " in error.problem for error in problems)
    return Reason.UNRESOLVED_REFERENCE if unresolved else Reason.INVALID


def conditions(observed: Observed) -> list[Condition]:
    """All conditions of the pool."""
    rows = [accepted(observed.problems), _ready(observed), _complete(observed), observed.scaling or _fixed()]
    return rows if observed.keys is None else [*rows, observed.keys]


def counts(observed: Observed) -> dict[str, Any]:
    """The fields of the status beside conditions and gain."""
    pool = observed.pool
    if pool is None or pool.endpoints:
        return {}
    status = _deployment_status(observed)
    ready = status.get("readyReplicas", 0)
    return {
        "replicas": status.get("replicas", 0),
        "readyReplicas": ready,
        "desiredReplicas": observed.desired,
        "engines": f"{ready}/{observed.desired}",
        "selector": selector_text(pool.name),
    }


def _deployment_status(observed: Observed) -> Mapping[str, Any]:
    status: Mapping[str, Any] = {} if observed.deployment is None else observed.deployment.get("status", {})
    return status


def _ready(observed: Observed) -> Condition:
    if observed.pool is None:
        return _condition(False, Reason.INVALID, "the pool is not accepted, so nothing was started")
    if observed.pool.endpoints:
        count = len(observed.pool.endpoints)
        return _condition(None, Reason.EXTERNAL_ENGINES, f"{count} endpoints, which the gateways watch")
    status = _deployment_status(observed)
    ready, updated = status.get("readyReplicas", 0), status.get("updatedReplicas", 0)
    text = f"{ready} of {observed.desired} engines are ready"
    if observed.refusal is not None:
        # Engines that are there serve on.
        return _condition(ready > 0, observed.refusal.reason, f"{text}; {observed.refusal.message}")
    if observed.desired == 0:
        return _condition(False, Reason.NO_ENGINES, "the pool is scaled to 0")
    if (why := _pods_refused(status)) is not None:
        return _condition(ready > 0, Reason.PODS_REFUSED, f"{text}; {why}")
    if _is_stuck(status):
        return _condition(ready > 0, Reason.ROLLOUT_STUCK, f"{text}; pods of the newest version do not become ready")
    if ready >= observed.desired and updated >= observed.desired and _is_current(observed):
        return _condition(True, Reason.ENGINES_READY, text)
    if ready >= observed.desired and _waits(observed):
        return _condition(
            True, Reason.ROLLOUT_WAITS, f"{text}; their replacement for a change of the operator waits for its turn"
        )
    if ready > 0:
        return _condition(True, Reason.SOME_ENGINES_MISSING, f"{text}, {updated} are of the newest version")
    return _condition(False, Reason.ENGINES_STARTING, text)


def _complete(observed: Observed) -> Condition:
    if observed.pool is None:
        return _completeness(None, Reason.INVALID, "the pool is not accepted")
    if observed.pool.endpoints:
        return _completeness(None, Reason.EXTERNAL_ENGINES, "the pool lists endpoints")
    if observed.desired == 0:
        return _completeness(True, Reason.NO_ENGINES, "the pool is scaled to 0")
    if _deployment_status(observed).get("readyReplicas", 0) >= observed.desired:
        return _completeness(True, Reason.ENGINES_READY, "all engines are ready")
    return _completeness(False, Reason.SOME_ENGINES_MISSING, "fewer engines are ready than there should be")


def _completeness(status: bool | None, reason: Reason, message: str) -> Condition:
    return Condition(type="Complete", status=status, reason=reason, message=message)


def _pods_refused(status: Mapping[str, Any]) -> str | None:
    """Why the API server takes no pods of the Deployment, which itself it took: quotas and Pod Security are of pods."""
    for each in status.get("conditions", ()):
        if each["type"] == "ReplicaFailure" and each["status"] == "True":
            message: str = each.get("message", each.get("reason", "pods cannot be made"))
            return message
    return None


def _is_stuck(status: Mapping[str, Any]) -> bool:
    return any(
        each["type"] == "Progressing" and each.get("reason") == "ProgressDeadlineExceeded"
        for each in status.get("conditions", ())
    )


def _waits(observed: Observed) -> bool:
    return observed.deployment is not None and rollout_state(observed.deployment) == WAITING


def _is_current(observed: Observed) -> bool:
    """Whether the counts are about the Deployment as it is now."""
    deployment = observed.deployment or {}
    generation = deployment.get("metadata", {}).get("generation", 0)
    return bool(_deployment_status(observed).get("observedGeneration", 0) >= generation)


def _condition(status: bool | None, reason: Reason, message: str) -> Condition:
    return Condition(type="Ready", status=status, reason=reason, message=message)


def _fixed() -> Condition:
    message = "spec.replicas says how many engines there are"
    return Condition(type="ScalingActive", status=False, reason=Reason.FIXED, message=message)
