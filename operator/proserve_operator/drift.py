"""Whether an object is still what was asked for."""

from collections.abc import Mapping
from typing import Any

from proserve_core.quantities import exact_units
from proserve_operator.names import HASH_ANNOTATION


def differs(desired: Mapping[str, Any], actual: Mapping[str, Any]) -> bool:
    """Whether `desired` must be applied (again): something else was asked for last time, or somebody changed a field
    that we set. Fields that others added do not count.
    """
    marks = [each["metadata"].get("annotations", {}).get(HASH_ANNOTATION) for each in (desired, actual)]
    return marks[0] != marks[1] or not _holds(desired, actual)


def _holds(desired: Any, actual: Any) -> bool:
    if isinstance(desired, Mapping):
        return isinstance(actual, Mapping) and all(
            name in actual and _holds(value, actual[name]) for name, value in desired.items()
        )
    if isinstance(desired, list):
        return (
            isinstance(actual, list)
            and len(actual) >= len(desired)
            and all(any(_holds(one, other) for other in actual) for one in desired)
        )
    return bool(desired == actual) or _same_quantity(desired, actual)


def _same_quantity(desired: Any, actual: Any) -> bool:
    """The API server writes `1000m` as `1`, wherever a quantity stands."""
    try:
        return exact_units(str(desired)) == exact_units(str(actual))
    except ValueError:
        return False
