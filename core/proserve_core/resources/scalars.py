"""Durations in the form that Kubernetes reads."""

import re
from decimal import Decimal

_UNIT_NS = {
    "ns": 1, "us": 10**3, "µs": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9,
}  # fmt: skip
_NUMBER_FORM = r"[0-9]+(?:\.[0-9]+)?"
DURATION_PATTERN = rf"({_NUMBER_FORM}(ns|us|µs|ms|s|m|h))+"
DURATION_LENGTH = 32
_DURATION_PART = re.compile(rf"({_NUMBER_FORM})(ns|us|µs|ms|s|m|h)", re.ASCII)
_DURATION = re.compile(DURATION_PATTERN, re.ASCII)
_NUMBER = re.compile(_NUMBER_FORM, re.ASCII)

DURATION_FORM = "a duration such as '500ms', '1.5s' or '2m'"


def parse_duration(text: str) -> float:
    """Seconds of a Go/Kubernetes duration; parts may follow each other ("1m30s"). Below a nanosecond it is cut off.

    Raises:
        ValueError: the text has another form; the message is the fix.
    """
    if _NUMBER.fullmatch(text):
        raise ValueError(f"add a unit: '{text}ms' or '{text}s'")
    if len(text) > DURATION_LENGTH or not _DURATION.fullmatch(text):
        raise ValueError(f"write {DURATION_FORM}")
    return sum(int(Decimal(number) * _UNIT_NS[unit]) for number, unit in _DURATION_PART.findall(text)) / 1e9
