"""What the watches have shown: the objects that reconciliation compares with what should be.

Level-triggered: the store holds the present, not events; whoever changes it says which pools to look at again.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from proserve_operator.names import POOL_LABEL

Object = dict[str, Any]
Key = tuple[str, str]
"""Namespace (empty for what belongs to the whole cluster) and name."""

_UNREAD_ANNOTATION = "kubectl.kubernetes.io/last-applied-configuration"


def key_of(body: Mapping[str, Any]) -> Key:
    """Namespace and name of an object."""
    metadata = body["metadata"]
    return metadata.get("namespace", ""), metadata["name"]


def pool_key(body: Mapping[str, Any]) -> Key | None:
    """The pool that an object was made for; None for an object of somebody else's."""
    name = body["metadata"].get("labels", {}).get(POOL_LABEL)
    return None if name is None else (body["metadata"].get("namespace", ""), name)


class Store:
    """The newest version of each object by kind."""

    def __init__(self) -> None:
        self._objects: dict[str, dict[Key, Object]] = {}

    def put(self, kind: str, body: Object) -> bool:
        """Take a newer version; False if it is the same as before."""
        objects, key = self._objects.setdefault(kind, {}), key_of(body)
        known = objects.get(key)
        objects[key] = _trimmed(body)
        return known is None or version(known) != version(body)

    def remove(self, kind: str, key: Key) -> None:
        """The object is gone."""
        self._objects.get(kind, {}).pop(key, None)

    def get(self, kind: str, key: Key) -> Object | None:
        """The object; None if the watch has not shown one."""
        return self._objects.get(kind, {}).get(key)

    def all(self, kind: str) -> Iterator[tuple[Key, Object]]:
        """All objects of a kind."""
        yield from list(self._objects.get(kind, {}).items())


def wishes(body: Mapping[str, Any] | None) -> tuple[Any, Any]:
    """What a resource asks for: its status may change without it."""
    if body is None:
        return None, None
    return body.get("spec"), body["metadata"].get("annotations")


def version(body: Mapping[str, Any]) -> str:
    """Which version of the object this is."""
    text: str = body["metadata"].get("resourceVersion", "")
    return text


def _trimmed(body: Object) -> Object:
    """Without what is large and not read."""
    metadata = {name: value for name, value in body["metadata"].items() if name != "managedFields"}
    if _UNREAD_ANNOTATION in metadata.get("annotations", {}):
        metadata["annotations"] = {
            name: value for name, value in metadata["annotations"].items() if name != _UNREAD_ANNOTATION
        }
    return {**body, "metadata": metadata}
