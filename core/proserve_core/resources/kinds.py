"""A kind of document: its fields, the annotations that mean something to us, and the rules within one document."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from proserve_core.resources.errors import show, suggestion
from proserve_core.resources.fields import (
    LABEL_NAME,
    SUBDOMAIN_NAME,
    Anything,
    Field,
    MapOf,
    Rule,
    Text,
)
from proserve_core.resources.reader import Reader, Values

GROUP = "proserve.dev"
API_VERSION = f"{GROUP}/v1alpha1"
DEFAULT_NAMESPACE = "default"

_ANY_KEY = Text(pattern=r".*", form="a string", max_length=317)
_ANY_TEXT = Text(pattern=r"(?s:.*)", form="a string", max_length=262144)
_SERVER_SET = "Set by the API server; not read."
_METADATA = (
    Field(
        name="labels",
        description="Kubernetes labels; not read.",
        type=MapOf(keys=_ANY_KEY, values=_ANY_TEXT),
    ),
    Field(
        name="annotations",
        description="Kubernetes annotations; the ones under proserve.dev/ are checked.",
        type=MapOf(keys=_ANY_KEY, values=_ANY_TEXT),
    ),
    *(
        Field(name=name, type=Anything(), description=_SERVER_SET)
        for name in (
            "creationTimestamp",
            "deletionGracePeriodSeconds",
            "deletionTimestamp",
            "finalizers",
            "generateName",
            "generation",
            "managedFields",
            "ownerReferences",
            "resourceVersion",
            "selfLink",
            "uid",
        )
    ),
)
_STATUS = Field(name="status", type=Anything(), description="Written by the operator; not read.")
_ENVELOPE = (
    Field(name="apiVersion", type=_ANY_TEXT, required=True, description="API group and version."),
    Field(name="kind", type=_ANY_TEXT, required=True, description="Kind of the resource."),
    Field(name="metadata", type=Anything(), required=True, description="Name and, for some kinds, namespace."),
)


class Column(msgspec.Struct, frozen=True, kw_only=True):
    """A column of `kubectl get`."""

    name: str
    path: str
    """Into the object, such as `.spec.weight`."""
    type: str = "string"
    wide: bool = False
    """Only with `-o wide`."""


class Definition(msgspec.Struct, frozen=True, kw_only=True):
    """What the API server needs to know of a kind beside its fields."""

    plural: str
    short_name: str
    columns: tuple[Column, ...]
    status: tuple[Field, ...]
    rules: tuple[Rule, ...] = ()
    """About the whole document."""
    scalable: bool = False


class Kind(msgspec.Struct, frozen=True, kw_only=True):
    """What a document of one kind may hold."""

    name: str
    api_version: str
    description: str
    namespaced: bool
    fields: tuple[Field, ...]
    """Top-level fields beside apiVersion, kind and metadata."""
    annotations: tuple[Field, ...] = ()
    """Annotations under proserve.dev/ by full name."""
    name_form: Text = SUBDOMAIN_NAME
    definition: Definition | None = None
    """None for a kind that is Kubernetes' own."""
    check: Callable[[Reading], None] | None = None
    """Rules that a field description can't say."""


class Reading:
    """What was read from one document; `values` lacks whatever is wrong."""

    def __init__(self, kind: Kind, source: str, data: dict[object, object]) -> None:
        self.kind = kind
        reader = self.reader = Reader(_label(kind, source, data))
        status = () if kind.definition is None else (_STATUS,)
        values = reader.fields((*_ENVELOPE, *kind.fields, *status), data, "")
        metadata = self._metadata(kind, values["metadata"]) if "metadata" in values else {}
        self.name: str | None = metadata.get("name")
        self.namespace: str = metadata.get("namespace", DEFAULT_NAMESPACE) if kind.namespaced else ""
        self.annotations = self._annotations(kind, metadata)
        self.values: Values = values
        if kind.check is not None:
            kind.check(self)

    @property
    def source(self) -> str:
        return self.reader.source

    @property
    def spec(self) -> Values:
        spec: Values = self.values.get("spec", {})
        return spec

    def has(self, path: str) -> bool:
        """Whether the document has the field, right or wrong."""
        return path in self.reader.given

    def error(self, path: str, problem: str, fix: str) -> None:
        self.reader.error(path, problem, fix)

    def _metadata(self, kind: Kind, data: object) -> Values:
        if not isinstance(data, dict):
            self.error("metadata", f"got {show(data)}", "expected a mapping with at least a name")
            return {}
        name = Field(name="name", type=kind.name_form, required=True, description="Name of the resource.")
        namespace = Field(name="namespace", type=LABEL_NAME, description="Namespace of the resource.")
        if "namespace" in data and not kind.namespaced:
            self.error("metadata.namespace", f"a {kind.name} belongs to the whole cluster", "remove the namespace")
            data = {key: value for key, value in data.items() if key != "namespace"}
        return self.reader.fields((name, namespace, *_METADATA), data, "metadata")

    def _annotations(self, kind: Kind, metadata: Values) -> Values:
        fields = {field.name: field for field in kind.annotations}
        values: Values = {field.name: field.default for field in kind.annotations if field.default is not None}
        for name, value in metadata.get("annotations", {}).items():
            path = f"metadata.annotations[{name}]"
            if name in fields:
                values[name] = self.reader.value(fields[name].type, value, path)
            elif name.startswith(f"{GROUP}/"):
                self.error(path, f"unknown {GROUP} annotation", suggestion(name, fields))
        return values


def _label(kind: Kind, source: str, data: dict[object, object]) -> str:
    metadata = data.get("metadata")
    name = metadata.get("name") if isinstance(metadata, dict) else None
    if not isinstance(name, str):
        return f"{source} ({kind.name})"
    if isinstance(metadata, dict) and kind.namespaced:
        name = f"{metadata.get('namespace', DEFAULT_NAMESPACE)}/{name}"
    return f"{source} ({kind.name} {show(name)[1:-1]})"
