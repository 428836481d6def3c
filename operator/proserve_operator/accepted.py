"""Which resources are in force, as gateways judge it too (`proserve_core.resources.live`).

The operator reads no Secrets: in place of each that is named it puts one with a value of its own, so that only what
stands in the resources themselves is judged. Whether keys are there is the gateways' to say.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from proserve_core.pools import EnginePool
from proserve_core.resources import CUSTOM_KINDS
from proserve_core.resources.errors import ResourceError
from proserve_core.resources.live import Data, DocumentKey, Settled, settle
from proserve_core.resources.model import Resources
from proserve_operator.store import Key, Object, Store, Wishes, key_of, wishes

KINDS = tuple(kind.name for kind in CUSTOM_KINDS)


class Accepted:
    """The last judgement of all resources. Judging takes time in proportion to their number, so it is done once for
    many changes (`judge`), and what came since is known to nobody before that."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._settled = Settled(resources=Resources(), in_force={}, problems={})
        self._pools: dict[Key, EnginePool] = {}
        self._judged: dict[tuple[str, Key], Wishes] = {}

    def judge(self) -> set[tuple[str, Key]]:
        """Judge what is in the store now; resources that are new or judged otherwise than before."""
        documents = {DocumentKey(kind, *key): _readable(body) for kind in KINDS for key, body in self._store.all(kind)}
        before, pools, judged = self._settled, self._pools, self._judged
        self._settled = settle({**documents, **_stand_ins(documents)}, before.in_force)
        self._pools = {(pool.namespace, pool.name): pool for pool in self._settled.resources.engine_pools}
        self._judged = {(kind, key): wishes(body) for kind in KINDS for key, body in self._store.all(kind)}
        return {
            (kind, key)
            for kind, key in self._judged
            if (kind, key) not in judged
            or (kind == "EnginePool" and pools.get(key) != self._pools.get(key))
            or before.problems.get(document := DocumentKey(kind, *key)) != self._settled.problems.get(document)
        }

    def is_current(self, kind: str, body: Object) -> bool:
        """Whether the last judgement was of the resource as it is here."""
        return self._judged.get((kind, key_of(body))) == wishes(body)

    def judged_generation(self, kind: str, body: Object) -> int | None:
        """The generation that the last judgement is about, which a status must not claim to be beyond; None: the
        resource was not there, or another one had its name."""
        judged = self._judged.get((kind, key_of(body)))
        return judged.generation if judged is not None and judged.uid == wishes(body).uid else None

    def problems(self, kind: str, key: Key) -> tuple[ResourceError, ...]:
        """What is wrong with a resource."""
        return self._settled.problems.get(DocumentKey(kind, *key), ())

    def pool(self, key: Key) -> EnginePool | None:
        """The pool as it is in force; None if no version of it was ever right."""
        return self._pools.get(key)


def _readable(body: Mapping[str, Any]) -> Data:
    return {name: value for name, value in body.items() if name != "status"}


def _stand_ins(documents: Mapping[DocumentKey, Data]) -> dict[DocumentKey, Data]:
    entries: dict[tuple[str, str], dict[str, str]] = {}
    for key, data in documents.items():
        for name, entry in _references(data):
            values = entries.setdefault((key.namespace, name), {})
            values[entry] = f"{key.namespace}/{name}/{entry}"
    return {
        DocumentKey("Secret", namespace, name): {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": name, "namespace": namespace},
            "stringData": values,
        }
        for (namespace, name), values in entries.items()
    }


def _references(data: Any) -> Iterator[tuple[str, str]]:
    """Every `secretKeyRef` below."""
    if isinstance(data, Mapping):
        reference = data.get("secretKeyRef")
        if isinstance(reference, Mapping) and isinstance(reference.get("name"), str) and reference.get("key"):
            yield reference["name"], str(reference["key"])
        for value in data.values():
            yield from _references(value)
    elif isinstance(data, list):
        for value in data:
            yield from _references(value)
