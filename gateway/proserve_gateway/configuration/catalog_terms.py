"""Reads the optional headers by which a request asks for another class or other targets than its tenant's own.

What may be asked for is decided in `proserve_core.resources`: any class up to the tenant's maximum, later deadlines
but no earlier ones; whoever asks for more gets the most that is allowed, and the reply's `x-proserve-class` says so.
llm-d's names are accepted as aliases.
"""

import math
from collections.abc import Mapping

from proserve_core.objectives import ServiceTerms, Tenant
from proserve_core.resources import Resources, UnknownClassError, allowed_class, allowed_objectives
from proserve_gateway.errors import invalid_request

CLASS_HEADERS = ("x-proserve-class", "x-llm-d-inference-objective")
TTFT_HEADERS = ("x-proserve-ttft-ms", "x-llm-d-slo-ttft-ms")
TPOT_HEADERS = ("x-proserve-tpot-ms", "x-llm-d-slo-tpot-ms")
CONTROL_HEADERS = frozenset((*CLASS_HEADERS, *TTFT_HEADERS, *TPOT_HEADERS))
"""Headers (gRPC metadata) that `Catalog.classify` reads; lower case. Our name wins over llm-d's."""

LONGEST_TARGET_MS = 1e9


def asked_terms(resources: Resources, tenant: Tenant, headers: Mapping[str, str]) -> ServiceTerms:
    """Terms of a request of `tenant` with these headers.

    Raises:
        ApiError: 400 for a class that does not exist or a target that is not a positive number of milliseconds.
    """
    header, name = _first(headers, CLASS_HEADERS)
    try:
        chosen = allowed_class(resources, tenant, None if header is None else name)
    except UnknownClassError as error:
        raise invalid_request(f"{header}: {error}", param=header) from error
    ttft_ms, tpot_ms = _milliseconds(headers, TTFT_HEADERS), _milliseconds(headers, TPOT_HEADERS)
    return chosen.terms(
        allowed_objectives(
            chosen,
            ttft_s=None if ttft_ms is None else ttft_ms / 1e3,
            tpot_s=None if tpot_ms is None else tpot_ms / 1e3,
        )
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
