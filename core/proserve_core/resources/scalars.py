"""Durations and quantities in the forms that Kubernetes reads."""

import re

_UNIT_S = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h)", re.ASCII)
_DURATION = re.compile(rf"({_DURATION_PART.pattern})+", re.ASCII)
_NUMBER = re.compile(r"\d+(\.\d+)?", re.ASCII)
_QUANTITY = re.compile(r"(\d+(\.\d*)?|\.\d+)(Ki|Mi|Gi|Ti|Pi|Ei|[numkMGTPE]|[eE][+-]?\d+)?", re.ASCII)

DURATION_FORM = "a duration such as '500ms', '1.5s' or '2m'"
QUANTITY_FORM = "a quantity such as 1, '500m' or '4Gi'"


def parse_duration(text: str) -> float:
    """Seconds of a Go/Kubernetes duration; parts may follow each other ("1m30s").

    Raises:
        ValueError: the text has another form; the message is the fix.
    """
    if _NUMBER.fullmatch(text):
        raise ValueError(f"add a unit: '{text}ms' or '{text}s'")
    if not _DURATION.fullmatch(text):
        raise ValueError(f"write {DURATION_FORM}")
    return sum(float(number) * _UNIT_S[unit] for number, unit in _DURATION_PART.findall(text))


def is_quantity(text: str) -> bool:
    """Whether Kubernetes reads the text as a quantity that is not negative."""
    return len(text) <= 64 and _QUANTITY.fullmatch(text) is not None
