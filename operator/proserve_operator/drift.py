"""Whether an object is still what was asked for."""

import hashlib
from collections.abc import Mapping
from typing import Any

import msgspec

from proserve_core.quantities import exact_units
from proserve_operator.names import HASH_ANNOTATION

_EXACT = frozenset({"command", "ingress"})
"""Fields in which nothing may be added: each rule of `ingress` opens the engines to somebody."""
_UNLIKE_ABSENT = frozenset({"allowPrivilegeEscalation", "automountServiceAccountToken"})
"""Fields whose `false` the API server gives back, and whose absence means true."""


def mark_of(wanted: Any) -> str:
    """What differs when something else is asked for: for annotations."""
    return hashlib.sha256(msgspec.json.encode(wanted, order="deterministic")).hexdigest()[:16]


def differs(desired: Mapping[str, Any], actual: Mapping[str, Any]) -> bool:
    """Whether `desired` must be applied (again): something else was asked for last time, or somebody changed a field
    that we set. Fields, and named things in lists, that others added do not count.
    """
    marks = [each["metadata"].get("annotations", {}).get(HASH_ANNOTATION) for each in (desired, actual)]
    return marks[0] != marks[1] or not holds(desired, actual)


def holds(desired: Any, actual: Any) -> bool:
    if isinstance(desired, Mapping):
        return isinstance(actual, Mapping) and all(_field_holds(name, value, actual) for name, value in desired.items())
    if isinstance(desired, list):
        if desired and not any(isinstance(each, Mapping | list) for each in desired):
            # Words: one more changes what the others mean.
            return bool(desired == actual)
        return (
            isinstance(actual, list)
            and len(actual) >= len(desired)
            and all(any(holds(one, other) for other in actual) for one in desired)
        )
    return bool(desired == actual) or _same_quantity(desired, actual)


def _field_holds(name: str, desired: Any, actual: Mapping[str, Any]) -> bool:
    if name not in actual:
        return name not in _UNLIKE_ABSENT and _is_zero(desired)
    return bool(desired == actual[name]) if name in _EXACT else holds(desired, actual[name])


def _is_zero(value: Any) -> bool:
    """The API server leaves out fields that have the zero of their type."""
    return value is None or value in ("", False, 0, [], {})


def _same_quantity(desired: Any, actual: Any) -> bool:
    """The API server writes `1000m` as `1`, wherever a quantity stands."""
    try:
        return exact_units(str(desired)) == exact_units(str(actual))
    except ValueError:
        return False
