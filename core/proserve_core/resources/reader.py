"""Reads decoded YAML or JSON against a field description: typed values, and every error with its path.

What is wrong is left out of the values (in a list: None, so that indices hold), so that the checks between documents
can still look at the rest.
"""

import base64
import binascii
import re
from enum import Enum
from typing import Any

from proserve_core.quantities import QUANTITY_FORM, exact_units, is_quantity
from proserve_core.resources.errors import ResourceError, show, suggestion
from proserve_core.resources.fields import (
    Anything,
    Boolean,
    Duration,
    Effect,
    Field,
    FieldType,
    FreeForm,
    Integer,
    ListOf,
    MapOf,
    Object,
    Quantity,
    SecretText,
    Text,
)
from proserve_core.resources.scalars import DURATION_FORM, parse_duration

Values = dict[str, Any]
"""Fields by name, typed as their description says."""


class _Invalid(Enum):
    INVALID = "invalid"


INVALID = _Invalid.INVALID


class Reader:
    """Reads the fields of one document."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.errors: list[ResourceError] = []
        self.given: set[str] = set()
        """Paths that the document has, right or wrong."""
        self.without_effect: dict[str, Effect] = {}
        """Paths that the document has and that are not acted upon."""

    def error(self, path: str, problem: str, fix: str) -> None:
        self.errors.append(ResourceError(source=self.source, path=path, problem=problem, fix=fix))

    def fields(self, fields: tuple[Field, ...], value: dict[Any, Any], path: str) -> Values:
        """The fields of an object, without those that are wrong."""
        known = {field.name: field for field in fields}
        for key in value:
            if not isinstance(key, str) or key not in known:
                self._unknown(key, known, path)
        values: Values = {}
        for name, field in known.items():
            field_path = f"{path}.{name}" if path else name
            if name not in value:
                if field.required:
                    self.error(field_path, "is missing", f"add it: {field.description}")
                elif field.default is not None:
                    values[name] = self.value(field.type, field.default, field_path, given=False)
                continue
            if field.effect is not Effect.FULL:
                self.without_effect[field_path] = field.effect
            read = self.value(field.type, value[name], field_path)
            if read is not INVALID:
                values[name] = read
        return values

    def value(self, kind: FieldType, value: object, path: str, *, given: bool = True) -> Any:
        """The value of one field, or INVALID."""
        if given:
            self.given.add(path)
        if isinstance(kind, Anything):
            return value
        if value is None:
            self.error(path, "is empty (null)", "give it a value or remove it")
            return INVALID
        match kind:
            case Object():
                if not isinstance(value, dict):
                    return self._mismatch(path, value, "a mapping of fields")
                return self.fields(kind.fields, value, path)
            case FreeForm():
                return value if isinstance(value, dict) else self._mismatch(path, value, "a mapping")
            case ListOf():
                return self._list(kind, value, path)
            case MapOf():
                return self._map(kind, value, path)
            case Integer():
                return self._integer(kind, value, path)
            case Boolean():
                return value if isinstance(value, bool) else self._mismatch(path, value, "true or false")
            case Text():
                return self._text(kind, value, path)
            case Duration():
                return self._duration(kind, value, path)
            case Quantity():
                return self._quantity(kind, value, path)
            case SecretText():
                return self._secret(kind, value, path)

    def _unknown(self, key: object, known: dict[str, Field], path: str) -> None:
        if not isinstance(key, str):
            self.error(path, f"has the key {show(key)}, which is not a string", f"use {', '.join(known)}")
            return
        inner = [
            f"{name}.{key}"
            for name, field in known.items()
            if isinstance(field.type, Object) and any(child.name == key for child in field.type.fields)
        ]
        shown = key if len(key) <= 60 else key[:60] + "…"
        fix = f"it belongs in {'.'.join(filter(None, (path, inner[0])))}" if inner else suggestion(key, known)
        self.error(f"{path}.{shown}" if path else shown, "unknown field", fix)

    def _mismatch(self, path: str, value: object, expected: str) -> _Invalid:
        self.error(path, f"got {show(value)}", f"expected {expected}")
        return INVALID

    def _list(self, kind: ListOf, value: object, path: str) -> Any:
        if not isinstance(value, list):
            return self._mismatch(path, value, "a list (lines that start with '- ')")
        if len(value) < kind.min_items:
            self.error(path, "is an empty list", "give it an entry or remove it")
        if len(value) > kind.max_items:
            self.error(path, f"has {len(value)} entries", f"use at most {kind.max_items}")
        read = [self.value(kind.items, item, f"{path}[{index}]") for index, item in enumerate(value)]
        if kind.unique:
            for index, item in enumerate(read):
                if item is not INVALID and item in read[:index]:
                    self.error(f"{path}[{index}]", f"{show(item)} is listed twice", "remove one of the two")
        return [None if item is INVALID else item for item in read]

    def _map(self, kind: MapOf, value: object, path: str) -> Any:
        if not isinstance(value, dict):
            return self._mismatch(path, value, "a mapping")
        if len(value) > kind.max_items:
            self.error(path, f"has {len(value)} entries", f"use at most {kind.max_items}")
        values = {}
        for key, item in value.items():
            if self._text(kind.keys, key, path) is INVALID:
                continue
            read = self.value(kind.values, item, f"{path}[{key}]")
            if read is not INVALID:
                values[key] = read
        return values

    def _integer(self, kind: Integer, value: object, path: str) -> int | _Invalid:
        if isinstance(value, bool) or not isinstance(value, int):
            return self._mismatch(path, value, "a whole number without quotes")
        if not kind.minimum <= value <= kind.maximum:
            return self._mismatch(path, value, f"a whole number from {kind.minimum} to {kind.maximum}")
        return value

    def _text(self, kind: Text, value: object, path: str) -> str | _Invalid:
        if isinstance(value, bool | int | float):
            return self._mismatch(path, value, "a string; put it in quotes")
        if not isinstance(value, str):
            return self._mismatch(path, value, "a string")
        if kind.choices:
            if value in kind.choices:
                return value
            self.error(path, f"{show(value)} is not a possible value", suggestion(value, kind.choices))
            return INVALID
        if len(value) > kind.max_length:
            self.error(path, f"is {len(value)} characters long", f"use at most {kind.max_length}")
            return INVALID
        return value if re.fullmatch(kind.pattern, value, re.ASCII) else self._mismatch(path, value, kind.form)

    def _duration(self, kind: Duration, value: object, path: str) -> float | _Invalid:
        if isinstance(value, int | float) and not isinstance(value, bool):
            self.error(path, f"{show(value)} has no unit", f"add one, such as '{show(value)}ms' or '{show(value)}s'")
            return INVALID
        if not isinstance(value, str):
            return self._mismatch(path, value, DURATION_FORM)
        try:
            seconds = parse_duration(value)
        except ValueError as error:
            self.error(path, f"{show(value)} is not a duration", str(error))
            return INVALID
        if not parse_duration(kind.minimum) <= seconds <= parse_duration(kind.maximum):
            return self._mismatch(path, value, f"a duration from {kind.minimum} to {kind.maximum}")
        return seconds

    def _quantity(self, kind: Quantity, value: object, path: str) -> str | _Invalid:
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63:
            text = str(value)
        elif isinstance(value, str) and is_quantity(value):
            text = value
        else:
            return self._mismatch(path, value, QUANTITY_FORM)
        if not _within(text, kind):
            return self._mismatch(path, value, f"a quantity from {kind.minimum or 0} to {kind.maximum}")
        return text

    def _secret(self, kind: SecretText, value: object, path: str) -> bytes | _Invalid:
        if not isinstance(value, str):
            self.error(path, "is not a string (value hidden)", "put it in quotes")
            return INVALID
        if not kind.base64:
            return value.encode(errors="surrogatepass")
        try:
            return base64.b64decode("".join(value.split()), validate=True)
        except (binascii.Error, ValueError):
            self.error(path, "is not base64 (value hidden)", "encode it, or write it plainly under stringData")
            return INVALID


def _within(text: str, kind: Quantity) -> bool:
    if kind.minimum is None and kind.maximum is None:
        return True
    try:
        units = exact_units(text)
    except ValueError:
        return False
    return (kind.minimum is None or units >= exact_units(kind.minimum)) and (
        kind.maximum is None or units <= exact_units(kind.maximum)
    )
