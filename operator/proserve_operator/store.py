"""What the watches have shown: the objects that reconciliation compares with what should be.

Level-triggered: the store holds the present, not events; whoever changes it says which pools to look at again.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

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

    def put_reply(self, kind: str, body: Object, *, asked: Object | None) -> None:
        """Take what a request was answered, unless the watch has shown anything since: a version between the two, which
        is followed by the newer one, or that the object is gone. `asked` is what `get` gave before the request."""
        if self.get(kind, key_of(body)) is asked:
            self.put(kind, body)

    def remove(self, kind: str, key: Key) -> None:
        """The object is gone."""
        self._objects.get(kind, {}).pop(key, None)

    def get(self, kind: str, key: Key) -> Object | None:
        """The object; None if the watch has not shown one."""
        return self._objects.get(kind, {}).get(key)

    def all(self, kind: str) -> Iterator[tuple[Key, Object]]:
        """All objects of a kind."""
        yield from list(self._objects.get(kind, {}).items())


class Wishes(msgspec.Struct, frozen=True, kw_only=True):
    """Which of all versions of a resource asks for something of its own: its status may change without that."""

    uid: str
    """Of the object: another one may come to have its name."""
    generation: int
    """Changes with the spec, and with nothing else."""
    annotations: Mapping[str, str]


def wishes(body: Mapping[str, Any]) -> Wishes:
    """What a resource asks for."""
    metadata = body["metadata"]
    return Wishes(
        uid=metadata.get("uid", ""),
        generation=metadata.get("generation", 0),
        annotations=_read_annotations(metadata),
    )


def version(body: Mapping[str, Any]) -> str:
    """Which version of the object this is."""
    text: str = body["metadata"].get("resourceVersion", "")
    return text


def _trimmed(body: Object) -> Object:
    """Without what is large and not read."""
    metadata = {name: value for name, value in body["metadata"].items() if name != "managedFields"}
    if "annotations" in metadata:
        metadata["annotations"] = _read_annotations(metadata)
    return {**body, "metadata": metadata}


def _read_annotations(metadata: Mapping[str, Any]) -> dict[str, str]:
    annotations = metadata.get("annotations", {})
    return {name: value for name, value in annotations.items() if name != _UNREAD_ANNOTATION}
