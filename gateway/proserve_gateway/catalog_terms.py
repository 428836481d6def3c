"""Which class and targets one request gets: its tenant's, unless optional headers ask for less.

Priority can't be forged: a request may pick any class up to its tenant's maximum and may loosen its targets. A class
above the maximum is refused, so that nobody believes to have it; a target tighter than the class's is raised to the
class's, because it is a wish for less waiting and not an error. llm-d's names are accepted as aliases.
"""

import math
from collections.abc import Mapping

from proserve_core.objectives import PriorityClass, ServiceObjectives
from proserve_gateway.errors import ApiError, invalid_request

CLASS_HEADERS = ("x-proserve-class", "x-llm-d-inference-objective")
TTFT_HEADERS = ("x-proserve-ttft-ms", "x-llm-d-slo-ttft-ms")
TPOT_HEADERS = ("x-proserve-tpot-ms", "x-llm-d-slo-tpot-ms")
CONTROL_HEADERS = frozenset((*CLASS_HEADERS, *TTFT_HEADERS, *TPOT_HEADERS))
"""Headers (gRPC metadata) that `Catalog.classify` reads; lower case. Our name wins over llm-d's."""

LONGEST_TARGET_MS = 1e9


def asked_class(
    headers: Mapping[str, str], classes: Mapping[str, PriorityClass], largest: PriorityClass
) -> PriorityClass | None:
    """The class that the request names; None if it names none.

    Raises:
        ApiError: 400 for an unknown class, 403 for one above `largest`.
    """
    header, name = _first(headers, CLASS_HEADERS)
    if header is None:
        return None
    asked = classes.get(name)
    if asked is None:
        raise invalid_request(
            f"{header}: there is no class {name[:60]!r}; known are {', '.join(sorted(classes))}", param=header
        )
    if asked.weight > largest.weight:
        raise ApiError(
            status=403,
            code="class_not_allowed",
            error_type="permission_error",
            message=f"{header}: class {name} (weight {asked.weight}) is above this tenant's maximum {largest.name} "
            f"(weight {largest.weight}); ask for that or a lighter one",
            param=header,
        )
    return asked


def asked_objectives(headers: Mapping[str, str], largest: ServiceObjectives) -> ServiceObjectives:
    """The class's targets, loosened where the request says so.

    Raises:
        ApiError: 400 for a value that is not a positive number of milliseconds.
    """
    ttft_ms = _milliseconds(headers, TTFT_HEADERS)
    tpot_ms = _milliseconds(headers, TPOT_HEADERS)
    if ttft_ms is None and tpot_ms is None:
        return largest
    return ServiceObjectives(
        ttft_s=largest.ttft_s if ttft_ms is None else max(largest.ttft_s, ttft_ms / 1e3),
        tpot_s=largest.tpot_s if tpot_ms is None else max(largest.tpot_s, tpot_ms / 1e3),
    )


def _first(headers: Mapping[str, str], names: tuple[str, ...]) -> tuple[str | None, str]:
    for name in names:
        value = headers.get(name)
        if value is not None:
            return name, value.strip()
    return None, ""


def _milliseconds(headers: Mapping[str, str], names: tuple[str, ...]) -> float | None:
    header, text = _first(headers, names)
    if header is None:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value <= LONGEST_TARGET_MS:
        raise invalid_request(f"{header}: {text[:60]!r} is not a positive number of milliseconds", param=header)
    return value
