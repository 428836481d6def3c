"""Conditions in the status of the custom resources: a closed list of types, each with a closed list of reasons.

Positive polarity throughout: True is good. docs/operator.md is made from these tables, what to do included.
"""

from collections.abc import Mapping
from enum import StrEnum

import msgspec


class Reason(StrEnum):
    """Why a condition is what it is."""

    VALID = "Valid"
    INVALID = "Invalid"
    UNRESOLVED_REFERENCE = "UnresolvedReference"
    KEYS_FOUND = "KeysFound"
    KEYS_MISSING = "KeysMissing"
    GATEWAY_SILENT = "GatewaySilent"
    ENGINES_READY = "EnginesReady"
    SOME_ENGINES_MISSING = "SomeEnginesMissing"
    ENGINES_STARTING = "EnginesStarting"
    NO_ENGINES = "NoEngines"
    EXTERNAL_ENGINES = "ExternalEngines"
    ROLLOUT_STUCK = "RolloutStuck"
    ROLLOUT_WAITS = "RolloutWaits"
    PODS_REFUSED = "PodsRefused"
    APPLY_REFUSED = "ApplyRefused"
    APPLY_FAILS = "ApplyFails"
    NAME_TAKEN = "NameTaken"
    FIXED = "Fixed"
    STEADY = "Steady"
    SCALED_UP = "ScaledUp"
    SCALED_DOWN = "ScaledDown"
    SCALED_TO_ZERO = "ScaledToZero"
    AT_MAXIMUM = "AtMaximum"
    NO_REPORT = "NoReport"


class ConditionType(msgspec.Struct, frozen=True, kw_only=True):
    """One condition of a kind."""

    name: str
    description: str
    reasons: Mapping[Reason, str]
    """What each reason says and what to do."""


_ACCEPTED = ConditionType(
    name="Accepted",
    description="The resource makes sense together with the others.",
    reasons={
        Reason.VALID: "It is in force.",
        Reason.INVALID: "Something in it is wrong; the message names field, value and fix. Gateways keep the last "
        "version that was right.",
        Reason.UNRESOLVED_REFERENCE: "It names something that does not exist, or contradicts another resource; "
        "the message says which. Make what is missing, or correct the name. The last version that was right stays.",
    },
)
_KEYS = ConditionType(
    name="KeysResolved",
    description="All Secrets that the resource names are there and right. The gateways say so, who alone read them.",
    reasons={
        Reason.KEYS_FOUND: "All are there.",
        Reason.KEYS_MISSING: "Some are not, are empty or belong to another tenant, too; the message says which. "
        "Requests with them are refused; to engines the last right key is sent on, and the last right `ca.crt` is "
        "trusted.",
        Reason.GATEWAY_SILENT: "No gateway answers, so nobody knows. Are gateways there, and does the operator reach "
        "their admin port (NetworkPolicies, the admin key)? Its log has the error.",
    },
)
_READY = ConditionType(
    name="Ready",
    description="Engines can serve requests.",
    reasons={
        Reason.ENGINES_READY: "All engines are ready.",
        Reason.SOME_ENGINES_MISSING: "Some are ready, others are not: see the pool's pods.",
        Reason.ENGINES_STARTING: "None is ready yet: pods wait for a node, pull the image or load the model. "
        "`kubectl describe pod -l proserve.dev/pool=NAME` says which.",
        Reason.NO_ENGINES: "The pool is scaled to 0.",
        Reason.EXTERNAL_ENGINES: "The pool lists endpoints, which the gateways watch.",
        Reason.ROLLOUT_STUCK: "Pods of the newest version did not become ready in time; those of the one before "
        "serve on. Look at the newest pod's log and events, then correct the pool.",
        Reason.ROLLOUT_WAITS: "All engines are ready. A new version or option of the operator makes their pods "
        "otherwise, and they are replaced when other pools are done. If that lasts, some of those do not get done: "
        "see [upgrade](operations.md#upgrade).",
        Reason.PODS_REFUSED: "Pods may not be made, because of a quota, Pod Security or an admission webhook; the "
        "message is the API server's own. Engines that are there serve on. Raise the quota, or lower what the pool "
        "asks for; engines come by themselves within minutes.",
        Reason.APPLY_REFUSED: "The API server refused an object of the pool; the message is its own. Often "
        "`spec.pod.template` or an admission webhook. Engines that are there serve on.",
        Reason.APPLY_FAILS: "The API server could not take an object of the pool several times in a row (5xx, 429, a "
        "conflict, no answer); the message has the newest. It is tried again, at most a minute apart. If it lasts, "
        "a webhook may be down or the API server overloaded.",
        Reason.NAME_TAKEN: "An object of the name that the pool needs exists and is not the pool's; it is left alone. "
        "Rename the pool or remove the object.",
        Reason.INVALID: "The resource is not accepted, or its `pod.template` has not the form of a pod template (the "
        "message names the field), so engines are left as they are.",
    },
)
_COMPLETE = ConditionType(
    name="Complete",
    description="As many engines are ready as there should be, of whatever version.",
    reasons={
        Reason.ENGINES_READY: "All are.",
        Reason.SOME_ENGINES_MISSING: "Some or all are not, since `lastTransitionTime`: see the pool's pods.",
        Reason.NO_ENGINES: "The pool is scaled to 0, so none is missing.",
        Reason.EXTERNAL_ENGINES: "The pool lists endpoints, which the gateways watch.",
        Reason.INVALID: "The pool is not accepted, so there is no number to compare with.",
    },
)
_SCALING = ConditionType(
    name="ScalingActive",
    description="The number of engines follows the gain that one more or one less would bring.",
    reasons={
        Reason.FIXED: "The pool has no `scaling`: `replicas` says how many engines there are.",
        Reason.STEADY: "The number of engines is right.",
        Reason.SCALED_UP: "Too much gain was lost for want of capacity, or requests came while there was no engine.",
        Reason.SCALED_DOWN: "One engine less was enough for long.",
        Reason.SCALED_TO_ZERO: "No request came for `scaling.idleDelay`. The next one starts an engine and "
        "waits for it.",
        Reason.AT_MAXIMUM: "Too much gain is lost for want of capacity, but `scaling.max` engines are there.",
        Reason.SOME_ENGINES_MISSING: "Engines did not become ready within `engine.startLimit` and 10 minutes: see the "
        "pool's pods. None is added beside them; they go when little gain is lost without them.",
        Reason.GATEWAY_SILENT: "One engine less would do, as far as is known, but a gateway that has an address does "
        "not answer: it may be overloaded, or have requests, so no engine goes. `kubectl get pods -l "
        "app.kubernetes.io/component=gateway` in the namespace of the release, and the operator's log, say which one.",
        Reason.NO_REPORT: "No gateway reports gain, so the number of engines stays. Are gateways there, and does the "
        "operator reach their admin port (NetworkPolicies, the admin key)? Its log has the error.",
    },
)

CONDITIONS: Mapping[str, tuple[ConditionType, ...]] = {
    "PriorityClass": (_ACCEPTED,),
    "Tenant": (_ACCEPTED, _KEYS),
    "EnginePool": (_ACCEPTED, _READY, _COMPLETE, _SCALING, _KEYS),
}
"""By kind."""


def conditions_markdown() -> str:
    """Tables of all conditions."""
    lines = []
    for kind, types in CONDITIONS.items():
        for condition in types:
            lines += [f"**{kind}: `{condition.name}`.** {condition.description}", "", "| Reason | |", "|---|---|"]
            lines += [f"| `{reason}` | {meaning} |" for reason, meaning in condition.reasons.items()]
            lines.append("")
    return "\n".join(lines).rstrip() + "\n"
