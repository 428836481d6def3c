"""Quantities as Kubernetes writes them: a number and a suffix."""

import re
from decimal import Decimal

QUANTITY_FORM = "a quantity such as 1, '500m' or '4Gi'"

QUANTITY_PATTERN = r"([0-9]+(\.[0-9]*)?|\.[0-9]+)(Ki|Mi|Gi|Ti|Pi|Ei|[numkMGTPE]|[eE][+-]?[0-9]{1,2})?"
QUANTITY_LENGTH = 32
_QUANTITY = re.compile(QUANTITY_PATTERN, re.ASCII)
_BINARY = ("Ki", "Mi", "Gi", "Ti", "Pi", "Ei")
_EXPONENTS = {"": 0, "n": -9, "u": -6, "m": -3, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_LARGEST_EXPONENT = 18


def is_quantity(text: str) -> bool:
    """Whether Kubernetes reads the text as a quantity that is not negative."""
    return len(text) <= QUANTITY_LENGTH and _QUANTITY.fullmatch(text) is not None


def whole_units(text: str) -> int:
    """The quantity in whole units, rounded down: bytes of memory.

    Raises:
        ValueError: it is no quantity, or beyond what Kubernetes can hold.
    """
    return int(exact_units(text))


def exact_units(text: str) -> Decimal:
    """The quantity in units.

    Raises:
        ValueError: it is no quantity, or beyond what Kubernetes can hold.
    """
    match = _QUANTITY.fullmatch(text) if len(text) <= QUANTITY_LENGTH else None
    if match is None:
        raise ValueError(f"write {QUANTITY_FORM}")
    number, suffix = Decimal(match[1]), match[3] or ""
    if suffix in _BINARY:
        return number * Decimal(1024 ** (_BINARY.index(suffix) + 1))
    exponent = int(suffix[1:]) if len(suffix) > 1 else _EXPONENTS[suffix]
    if exponent > _LARGEST_EXPONENT:
        raise ValueError(f"write at most 1e{_LARGEST_EXPONENT}")
    return number.scaleb(max(exponent, -QUANTITY_LENGTH))
