"""Field descriptions of the resources: the single source of truth for reading, for the reference in docs/resources.md,
and for any schema made from it.

A tree of values, no behaviour: `reader` interprets it, `field_tables` prints it. Practice: Kubernetes API conventions
(durations and quantities are strings, no floats in specs).
"""

from __future__ import annotations

from enum import Enum

import msgspec


class Effect(Enum):
    """Where a field is acted upon. A field that is read but not acted upon is reported, never ignored silently."""

    FULL = "full"
    CLUSTER_ONLY = "is for engines in a cluster: it has no effect on this machine"
    NOT_YET = "has no effect in this version"


class Integer(msgspec.Struct, frozen=True, kw_only=True):
    minimum: int
    maximum: int = 2**31 - 1


class Boolean(msgspec.Struct, frozen=True, kw_only=True):
    pass


class Text(msgspec.Struct, frozen=True, kw_only=True):
    """A string that matches the whole of `pattern` or is one of `choices`."""

    pattern: str = r"[^\x00]+"
    form: str = "a string that is not empty"
    """The pattern in words, with an example where that helps."""
    label: str = "string"
    """The form in one or two words."""
    choices: tuple[str, ...] = ()
    max_length: int = 4096


class Duration(msgspec.Struct, frozen=True, kw_only=True):
    """A Kubernetes duration ("500ms", "1.5s", "2m"), read as seconds."""

    minimum: str = "1ms"
    maximum: str = "24h"


class Quantity(msgspec.Struct, frozen=True, kw_only=True):
    """A Kubernetes quantity ("4Gi", "500m", 1), read as the string."""


class SecretText(msgspec.Struct, frozen=True, kw_only=True):
    """A string that must never be shown, read as bytes."""

    base64: bool = False


class Anything(msgspec.Struct, frozen=True, kw_only=True):
    """A field that others write and that is not looked into."""


class ListOf(msgspec.Struct, frozen=True, kw_only=True):
    items: FieldType
    min_items: int = 0
    unique: bool = False


class MapOf(msgspec.Struct, frozen=True, kw_only=True):
    keys: Text
    values: FieldType


class Object(msgspec.Struct, frozen=True, kw_only=True):
    fields: tuple[Field, ...]


FieldType = Integer | Boolean | Text | Duration | Quantity | SecretText | Anything | ListOf | MapOf | Object


class Field(msgspec.Struct, frozen=True, kw_only=True):
    """One field of an object."""

    name: str
    type: FieldType
    description: str
    required: bool = False
    default: object = None
    """What applies when the field is absent from an object that is there, as YAML has it; None: nothing."""
    effect: Effect = Effect.FULL


# RFC 1123, the two kinds of Kubernetes names.
LABEL_NAME = Text(
    pattern=r"[a-z0-9]([-a-z0-9]*[a-z0-9])?",
    form="a name of lower-case letters, digits and '-' that starts and ends with a letter or digit",
    label="name",
    max_length=63,
)
SUBDOMAIN_NAME = Text(
    pattern=r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*",
    form="a name of lower-case letters, digits, '-' and '.' that starts and ends with a letter or digit",
    label="name",
    max_length=253,
)
SECRET_ENTRY = Text(
    pattern=r"[-._a-zA-Z0-9]+",
    form="a key of letters, digits, '-', '_' and '.'",
    label="name",
    max_length=253,
)


def secret_key_ref(description: str) -> Field:
    """A reference to one entry of a Secret, in the shape Kubernetes uses everywhere."""
    return Field(
        name="secretKeyRef",
        required=True,
        description=description,
        type=Object(
            fields=(
                Field(name="name", type=SUBDOMAIN_NAME, required=True, description="Name of the Secret."),
                Field(name="key", type=SECRET_ENTRY, required=True, description="Key of the entry in the Secret."),
            )
        ),
    )
