"""Small builders for resource documents, and the errors of a set of them."""

import copy
from collections.abc import Mapping
from typing import Any

from proserve_core.resources import Document, ResourceErrors, Resources, parse_documents

Data = dict[str, Any]

GROUP_VERSION = "proserve.dev/v1alpha1"


def document(kind: str, name: str, *, annotations: Mapping[str, str] | None = None, **fields: object) -> Data:
    """A document with `fields` beside its envelope."""
    metadata: Data = {"name": name}
    if annotations:
        metadata["annotations"] = dict(annotations)
    return {"apiVersion": "v1" if kind == "Secret" else GROUP_VERSION, "kind": kind, "metadata": metadata, **fields}


def priority_class(name: str = "high", *, share: str | None = None, **spec: object) -> Data:
    """A class of weight 1; `spec` replaces fields, None removes one."""
    annotations = {"proserve.dev/share": share} if share else None
    objectives = {"timeToFirstToken": "1s", "timePerOutputToken": "50ms"}
    return document(
        "PriorityClass", name, annotations=annotations, spec=_spec({"weight": 1, "objectives": objectives}, spec)
    )


def tenant(name: str = "alice", **spec: Any) -> Data:
    """An anonymous tenant of class `high`."""
    return document("Tenant", name, spec=_spec({"priorityClassName": "high", "anonymous": True}, spec))


def keyed_tenant(name: str, *, secret: str = "keys", key: str | None = None, **spec: object) -> Data:
    """A tenant of class `high` with one API key, by default the entry of its own name."""
    keys = [{"secretKeyRef": {"name": secret, "key": key or name}}]
    return document("Tenant", name, spec=_spec({"priorityClassName": "high", "apiKeys": keys}, spec))


def secret(name: str = "keys", **entries: str) -> Data:
    """A Secret with plain entries."""
    return document("Secret", name, stringData=entries)


def engine_pool(name: str = "tiny", *, model: object = None, **spec: object) -> Data:
    """A pool of one engine with the model `tiny`."""
    return document(
        "EnginePool", name, spec=_spec({"model": model or {"name": "tiny", "uri": "generated://tiny"}}, spec)
    )


def endpoint_pool(name: str = "outside", *urls: str) -> Data:
    """A pool in front of running servers."""
    endpoints = [{"url": url} for url in urls or ("http://127.0.0.1:8000",)]
    return engine_pool(name, model={"name": "outside"}, endpoints=endpoints)


def parse(*documents: object, **options: Any) -> Resources:
    """Parse decoded documents; sources are `test#1`, `test#2`, ..."""
    return parse_documents(
        [Document(source=f"test#{number}", data=copy.deepcopy(data)) for number, data in enumerate(documents, 1)],
        **options,
    )


def errors_of(*documents: object, **options: bool) -> list[str]:
    """Lines of the errors; empty when the documents are accepted."""
    try:
        parse(*documents, **options)
    except ResourceErrors as refused:
        return [str(error) for error in refused.errors]
    return []


def _spec(defaults: Data, fields: Mapping[str, object]) -> Data:
    return {name: value for name, value in {**defaults, **fields}.items() if value is not None}
