"""Quantities as Kubernetes writes them: a number and a suffix."""

import re
from decimal import Decimal

QUANTITY_FORM = "a quantity such as 1, '500m' or '4Gi'"

_QUANTITY = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(Ki|Mi|Gi|Ti|Pi|Ei|[numkMGTPE]|[eE][+-]?\d+)?", re.ASCII)
_LONGEST = 64
_BINARY = ("Ki", "Mi", "Gi", "Ti", "Pi", "Ei")
_EXPONENTS = {"": 0, "n": -9, "u": -6, "m": -3, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_LARGEST_EXPONENT = 18


def is_quantity(text: str) -> bool:
    """Whether Kubernetes reads the text as a quantity that is not negative."""
    return len(text) <= _LONGEST and _QUANTITY.fullmatch(text) is not None


def whole_units(text: str) -> int:
    """The quantity in whole units, rounded down: bytes of memory.

    Raises:
        ValueError: it is no quantity, or beyond what Kubernetes can hold.
    """
    match = _QUANTITY.fullmatch(text) if len(text) <= _LONGEST else None
    if match is None:
        raise ValueError(f"write {QUANTITY_FORM}")
    number, suffix = Decimal(match[1]), match[2] or ""
    if suffix in _BINARY:
        return int(number * 1024 ** (_BINARY.index(suffix) + 1))
    exponent = int(suffix[1:]) if len(suffix) > 1 else _EXPONENTS[suffix]
    if exponent > _LARGEST_EXPONENT:
        raise ValueError(f"write at most 1e{_LARGEST_EXPONENT}")
    return int(number.scaleb(max(exponent, -_LONGEST)))
