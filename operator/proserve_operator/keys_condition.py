"""The condition `KeysResolved`: whether the Secrets that a resource names are there and right, as the gateways say, who
alone read them."""

from proserve_core.resources.conditions import Reason
from proserve_operator.conditions import Condition
from proserve_operator.reports import Reports
from proserve_operator.store import Key, Object

_PATHS = {"Tenant": ("spec.apiKeys",), "EnginePool": ("spec.engine.keys", "spec.engine.tls", "spec.endpoints")}
"""Where a kind names them, by fields of these names."""
_FIELDS = ("secretKeyRef", "secretName")


def keys_condition(reports: Reports, kind: str, key: Key, body: Object) -> Condition:
    """Of a Tenant or an EnginePool."""
    spec = body.get("spec", {})
    if kind == "Tenant":
        names_any = bool(spec.get("apiKeys"))
    else:
        engine, endpoints = spec.get("engine", {}), spec.get("endpoints", ())
        names_any = "keys" in engine or "tls" in engine or any("apiKey" in each for each in endpoints)
    if not names_any:
        return _resolved(True, Reason.KEYS_FOUND, "it names no keys")
    if not reports.window.reporting:
        return _resolved(None, Reason.GATEWAY_SILENT, "no gateway reports")
    problems = [
        each
        for each in reports.problems(kind, *key)
        if each.startswith(_PATHS[kind]) and any(field in each for field in _FIELDS)
    ]
    if problems:
        return _resolved(False, Reason.KEYS_MISSING, "; ".join(problems))
    return _resolved(True, Reason.KEYS_FOUND, "all keys are there")


def _resolved(status: bool | None, reason: Reason, message: str) -> Condition:
    return Condition(type="KeysResolved", status=status, reason=reason, message=message)
