"""Field descriptions of the resources: the single source of truth for reading, for the reference in docs/resources.md,
and for the CustomResourceDefinitions.

A tree of values, no behaviour: `reader` interprets it, `field_tables` prints it, `crd_schema` turns it into a schema.
Practice: Kubernetes API conventions (durations and quantities are strings, no floats in specs). Patterns are such that
Python and Go (RE2) read them alike: ASCII classes only, no look-around.
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
    """ASCII classes only."""
    form: str = "a string that is not empty"
    """The pattern in words, with an example where that helps."""
    label: str = "string"
    """The form in one or two words."""
    choices: tuple[str, ...] = ()
    max_length: int = 4096
    rules: tuple[Rule, ...] = ()


class Duration(msgspec.Struct, frozen=True, kw_only=True):
    """A Kubernetes duration ("500ms", "1.5s", "2m"), read as seconds."""

    minimum: str = "1ms"
    maximum: str = "24h"


class Quantity(msgspec.Struct, frozen=True, kw_only=True):
    """A Kubernetes quantity ("4Gi", "500m", 1), read as the string."""

    minimum: str | None = None
    """None: 0."""
    maximum: str | None = None


class SecretText(msgspec.Struct, frozen=True, kw_only=True):
    """A string that must never be shown, read as bytes."""

    base64: bool = False


class Anything(msgspec.Struct, frozen=True, kw_only=True):
    """A field that others write and that is not looked into."""


class FreeForm(msgspec.Struct, frozen=True, kw_only=True):
    """A mapping in a form of Kubernetes' own, which the API server checks where it is used."""


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """What types and ranges can't say, for the API server. Each has its twin in the kind's `check`."""

    expression: str
    """CEL; `self` is the value that has the rule."""
    message: str
    field: str | None = None
    """Path below that value which the message is about, such as `.copyBlocks`."""


class ListOf(msgspec.Struct, frozen=True, kw_only=True):
    items: FieldType
    min_items: int = 0
    max_items: int = 64
    unique: bool = False
    keys: tuple[str, ...] = ()
    """Fields that tell the items apart, so that several writers can each own some of them."""


class MapOf(msgspec.Struct, frozen=True, kw_only=True):
    keys: Text
    values: FieldType
    max_items: int = 64


class Object(msgspec.Struct, frozen=True, kw_only=True):
    fields: tuple[Field, ...]
    rules: tuple[Rule, ...] = ()


FieldType = Integer | Boolean | Text | Duration | Quantity | SecretText | Anything | FreeForm | ListOf | MapOf | Object


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
