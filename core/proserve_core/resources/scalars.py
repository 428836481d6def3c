"""Durations in the form that Kubernetes reads."""

import re

_UNIT_S = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h)", re.ASCII)
_DURATION = re.compile(rf"({_DURATION_PART.pattern})+", re.ASCII)
_NUMBER = re.compile(r"\d+(\.\d+)?", re.ASCII)

DURATION_FORM = "a duration such as '500ms', '1.5s' or '2m'"


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
