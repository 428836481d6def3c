"""A Kubernetes API in memory, as far as the operator uses one: objects with versions, and refusals on demand."""

import copy
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

from proserve_operator.kube_client import KubeError

Object = dict[str, Any]


class FakeKube:
    """`proserve_operator.kube_client.Kube`."""

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str, str], Object] = {}
        self.events: list[Object] = []
        self.requests: list[str] = []
        """Verb and object of each change."""
        self.refuse: Callable[[str, Object], KubeError | None] = lambda *_: None
        self.forbidden: set[str | None] = set()
        """Namespaces in which nothing may be listed; None: the cluster."""
        self.unreadable: dict[str, KubeError] = {}
        """Kinds of which no object can be read, and why."""
        self.unknown_kinds = {"ServiceMonitor"}
        self._version = 0

    def put(self, body: Object) -> Object:
        """An object that somebody else made."""
        self._version += 1
        stored = copy.deepcopy(body)
        stored["metadata"] |= {"resourceVersion": str(self._version)}
        stored["metadata"].setdefault("uid", f"uid-{self._version}")
        self.objects[self._key(stored)] = stored
        return copy.deepcopy(stored)

    async def get(self, kind: str, namespace: str, name: str) -> Object | None:
        if kind in self.unreadable:
            raise self.unreadable[kind]
        return copy.deepcopy(self.objects.get((kind, namespace, name)))

    async def apply(self, made: Object, *, manager: str, subresource: str = "") -> Object:
        self._ask("apply", made, subresource)
        known = self.objects.get(self._key(made), {})
        if subresource:
            if not known:
                raise KubeError(404, "not found")
            return self.put({**known, subresource: made[subresource]})
        metadata = {**known.get("metadata", {}), **made["metadata"]}
        return self.put({**known, **made, "metadata": metadata})

    async def delete(self, kind: str, namespace: str, name: str) -> None:
        self._ask("delete", {"kind": kind, "metadata": {"namespace": namespace, "name": name}})
        self.objects.pop((kind, namespace, name), None)

    async def annotate(self, kind: str, namespace: str, name: str, annotations: Mapping[str, str]) -> None:
        self._ask("annotate", {"kind": kind, "metadata": {"namespace": namespace, "name": name}})
        self.objects[kind, namespace, name]["metadata"].setdefault("annotations", {}).update(annotations)

    async def create(self, made: Object) -> None:
        self.events.append(made)

    async def versions(self, kind: str, namespace: str | None, *, managed: bool) -> AsyncIterator[Object]:
        if namespace in self.forbidden:
            raise KubeError(403, f"{kind} is forbidden in the namespace {namespace}")
        for (of, where, _), body in sorted(self.objects.items()):
            if of == kind and namespace in (None, where):
                yield body["metadata"]

    async def serves(self, kind: str) -> bool:
        return kind not in self.unknown_kinds

    def _ask(self, verb: str, body: Object, subresource: str = "") -> None:
        metadata = body["metadata"]
        self.requests.append(" ".join(filter(None, (verb, body["kind"], metadata["name"], subresource))))
        error = self.refuse(verb, body)
        if error is not None:
            raise error

    @staticmethod
    def _key(body: Object) -> tuple[str, str, str]:
        return body["kind"], body["metadata"].get("namespace", ""), body["metadata"]["name"]
