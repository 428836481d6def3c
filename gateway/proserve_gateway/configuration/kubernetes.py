"""The configuration from a cluster: the three resources, the Secrets that they name, and the engines' addresses
(`proserve gateway --kubernetes`).

Changes are taken within a fraction of a second. Each resource stands for itself (`proserve_core.resources.live`): one
that is wrong keeps its last right version and hinders no other. While the API server is away, or refuses the gateway
for want of rights, the last known configuration serves on. Of all Secrets of a namespace only those that are named are
kept, and of certificates only who signed them.
"""

import asyncio
import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from kubernetes.aio.client import ApiClient

from proserve_core.pools import EnginePool
from proserve_core.resources import CUSTOM_KINDS, without_waiting
from proserve_core.resources.live import Data, DocumentKey, Settled, settle
from proserve_core.resources.secrets import OPAQUE, TLS
from proserve_gateway.configuration.configuration import ConfigurationTaker
from proserve_gateway.configuration.engine_authorities import ENTRY, EngineAuthorities
from proserve_gateway.configuration.engine_keys import EngineKeys
from proserve_gateway.configuration.kube_targets import POOL_LABEL, engine_targets
from proserve_gateway.configuration.kube_watch import ClusterError, KubeWatch, Object, connect, get

logger = logging.getLogger(__name__)

TOGETHER_S = 0.05
"""Changes that come within this time are taken together."""
SECRET_RETRY_S = 1.0
SECRETS_AT_ONCE = 16
"""Of hundreds at the start. One after the other each would wait for the round trip of all before it."""

_GROUP = "/apis/proserve.dev/v1alpha1"
_PLURALS = {kind.name: kind.definition.plural for kind in CUSTOM_KINDS if kind.definition is not None}
_CLUSTER_KINDS = frozenset(kind.name for kind in CUSTOM_KINDS if not kind.namespaced)
_SECRET_TYPES = {"Secret": OPAQUE, "Certificate": TLS}
"""Secrets of two types are followed, as if they were two kinds."""
_NAMING = {"Secret": ("secretKeyRef", "name"), "Certificate": ("tls", "secretName")}
"""By which fields resources name them."""


class _Kind:
    """Keeps the objects of one kind and namespace."""

    def __init__(self, source: "KubernetesSource", kind: str, namespace: str | None) -> None:
        self._source = source
        self._kind = kind
        self.namespace = namespace
        """None: all."""
        self.is_listed = False
        self.is_refused = False
        """For want of rights, now."""

    def listed(self, objects: Sequence[Object]) -> None:
        self.is_listed = True
        self._source.replace(self._kind, self.namespace, objects)

    def changed(self, event: str, body: Object) -> None:
        self._source.change(self._kind, body, gone=event == "DELETED")

    def forbidden(self, *, refused: bool) -> None:
        self.is_refused = refused
        if refused:
            where = "the cluster" if self.namespace is None else f"namespace {self.namespace}"
            logger.warning("%s of %s may not be listed and watched: does the gateway lack a role?", self._kind, where)
        self._source.rights_changed()


class KubernetesSource:
    """A `ConfigurationSource` over a cluster."""

    def __init__(self, *, namespaces: Sequence[str] = (), api: ApiClient | None = None) -> None:
        """Of these namespaces, or of the whole cluster. `api` is for tests; without it the one that is there."""
        self._namespaces = tuple(namespaces)
        self._api = api
        self._objects: dict[str, dict[tuple[str, str], Object]] = {}
        self._named: set[tuple[str, str, str]] = set()
        """Kind, namespace and name of Secrets that resources name."""
        self._asked_for: set[tuple[str, str, str]] = set()
        """Secrets that are being asked for, while nothing has been heard of them: what a list or watch says meanwhile
        counts, not the answer."""
        self._engine_keys = EngineKeys()
        self._authorities = EngineAuthorities()
        self._overlap_end: asyncio.TimerHandle | None = None
        """When an authority that was replaced is trusted no longer."""
        self._changed = asyncio.Event()
        self._settled: Settled | None = None

    async def follow(self, taker: ConfigurationTaker) -> None:
        """See `ConfigurationSource`."""
        api = self._api or await connect()
        try:
            kinds: list[_Kind] = []
            async with asyncio.TaskGroup() as group:
                for kind, namespace, path, query in self._watched():
                    kinds.append(_Kind(self, kind, namespace))
                    group.create_task(KubeWatch(api, path, kinds[-1], query=query).run())
                group.create_task(self._take_changes(api, taker, kinds))
        finally:
            if self._api is None:
                await api.close()

    @property
    def secrets_kept(self) -> Collection[tuple[str, str]]:
        """Namespace and name of each Secret in memory."""
        return self._objects.get("Secret", {}).keys()

    def _watched(self) -> Iterator[tuple[str, str | None, str, dict[str, str]]]:
        """Kind, namespace, path and selectors of each watch."""
        scopes: Sequence[str | None] = self._namespaces or (None,)
        for kind, plural in _PLURALS.items():
            for namespace in (None,) if kind in _CLUSTER_KINDS else scopes:
                yield kind, namespace, f"{_GROUP}{_within(namespace)}/{plural}", {}
        for namespace in scopes:
            path = f"/api/v1{_within(namespace)}/secrets"
            for kind, secret_type in _SECRET_TYPES.items():
                yield kind, namespace, path, {"fieldSelector": f"type={secret_type}"}
            path = f"/apis/discovery.k8s.io/v1{_within(namespace)}/endpointslices"
            yield "EndpointSlice", namespace, path, {"labelSelector": POOL_LABEL}

    def replace(self, kind: str, namespace: str | None, objects: Sequence[Object]) -> None:
        """All objects of a kind in a namespace."""
        self._asked_for -= {each for each in self._asked_for if each[0] == kind and namespace in (None, each[1])}
        kept = {
            key: body
            for key, body in self._objects.get(kind, {}).items()
            if (namespace is not None and key[0] != namespace) or body.get("type") != _SECRET_TYPES.get(kind)
        }
        self._objects[kind] = kept | {
            _key(body): _needed(kind, body) for body in objects if self._wanted(kind, _key(body))
        }
        self._changed.set()

    def change(self, kind: str, body: Object, *, gone: bool) -> None:
        """One object came, changed or went."""
        key, objects = _key(body), self._objects.setdefault(kind, {})
        body = _needed(kind, body)
        self._asked_for.discard((kind, *key))
        if gone:
            objects.pop(key, None)
        elif not self._wanted(kind, key) or _means(objects.get(key, {})) == _means(body):
            return
        else:
            objects[key] = body
        self._changed.set()

    def rights_changed(self) -> None:
        """Something may not be listed any more, or may be again."""
        self._changed.set()

    def _wanted(self, kind: str, key: tuple[str, str]) -> bool:
        return kind not in _SECRET_TYPES or (kind, *key) in self._named

    async def _take_changes(self, api: ApiClient, taker: ConfigurationTaker, kinds: Sequence[_Kind]) -> None:
        while True:
            await self._changed.wait()
            await asyncio.sleep(TOGETHER_S)
            self._changed.clear()
            taker.unlisted(sum(kind.is_refused for kind in kinds))
            if not _complete(kinds):
                continue
            if not await self._fetch_secrets(api):
                asyncio.get_running_loop().call_later(SECRET_RETRY_S, self._changed.set)
            before = self._settled
            documents = dict(self._documents())
            self._settled = await asyncio.to_thread(settle, documents, {} if before is None else before.in_force)
            self._tell_problems(before, self._settled)
            pools = {(pool.namespace, pool.name) for pool in self._settled.resources.engine_pools if not pool.endpoints}
            slices = [
                each
                for each in self._objects.get("EndpointSlice", {}).values()
                if (each["metadata"]["namespace"], each["metadata"]["labels"][POOL_LABEL]) in pools
            ]
            problems = {
                f"{key.kind}/{key.namespace}/{key.name}": [
                    f"{error.path}: {error.problem}; {error.fix}" for error in errors
                ]
                for key, errors in self._settled.problems.items()
            }
            for key, problem in self._read_secrets(self._settled.resources.engine_pools):
                problems.setdefault("/".join(("EnginePool", *key)), []).append(problem)
            taker.left_out(problems)
            engines = self._authorities.with_authorities(self._engine_keys.with_keys(engine_targets(slices)))
            try:
                taker.configure(self._settled.resources, engines)
            except ValueError as error:
                taker.refused(str(error))

    def _read_secrets(self, pools: Sequence[EnginePool]) -> list[tuple[tuple[str, str], str]]:
        """Take what pools say by Secrets; what is wrong, with namespace and name of the pool."""
        loop = asyncio.get_running_loop()
        keys = self._engine_keys.read(pools, self._objects.get("Secret", {}))
        authorities = self._authorities.read(pools, self._objects.get("Certificate", {}), now_s=loop.time())
        if self._overlap_end is not None:
            self._overlap_end.cancel()
        next_s = self._authorities.next_change_s
        self._overlap_end = None if next_s is None else loop.call_at(next_s, self._changed.set)
        return [*keys.items(), *authorities.items()]

    async def _fetch_secrets(self, api: ApiClient) -> bool:
        """Get those that are named for the first time; False if some could not be asked for now."""
        named = {
            (secret, key[0], name)
            for kind in _PLURALS
            for key, body in self._objects.get(kind, {}).items()
            for secret, naming in _NAMING.items()
            for name in _secret_names(body.get("spec"), *naming)
        }
        unknown, self._named = named - self._named, set(named)
        for kind in _SECRET_TYPES:
            kept = self._objects.get(kind, {})
            self._objects[kind] = {key: body for key, body in kept.items() if (kind, *key) in named}
        slots = asyncio.Semaphore(SECRETS_AT_ONCE)
        async with asyncio.TaskGroup() as group:
            for asked in sorted(unknown):
                group.create_task(self._fetch_secret(api, asked, slots))
        return self._named == named

    async def _fetch_secret(self, api: ApiClient, asked: tuple[str, str, str], slots: asyncio.Semaphore) -> None:
        kind, *key = asked
        async with slots:
            self._asked_for.add(asked)
            try:
                body = await get(api, "/api/v1/namespaces/{}/secrets/{}".format(*key))
            except ClusterError as error:
                logger.warning("a Secret is not read: %s", error)
                self._named.discard(asked)
                body = None
            if asked in self._asked_for and body is not None:
                right = body["type"] == _SECRET_TYPES[kind]
                # A list that came meanwhile has made it another mapping.
                self._objects[kind][_key(body)] = _needed(kind, body) if right else _without_entries(kind, body)
            self._asked_for.discard(asked)

    def _documents(self) -> Iterator[tuple[DocumentKey, Data]]:
        for kind in (*_PLURALS, "Secret"):
            version = "v1" if kind == "Secret" else _GROUP.removeprefix("/apis/")
            for key, body in self._objects.get(kind, {}).items():
                # Items of a list come without their kind.
                yield DocumentKey(kind, *key), {**body, "apiVersion": version, "kind": kind}

    @staticmethod
    def _tell_problems(before: Settled | None, now: Settled) -> None:
        told = [] if before is None else without_waiting(before.resources)
        for line in without_waiting(now.resources):
            if line not in told:
                logger.warning("%s", line)
        known: Mapping[DocumentKey, Any] = {} if before is None else before.problems
        for key, errors in now.problems.items():
            if known.get(key) != errors:
                for error in errors:
                    logger.warning("%s; its last right version stays, or it is left out", error)
        for key in known.keys() - now.problems.keys():
            logger.info("%s %s/%s is in force again or gone", key.kind, key.namespace, key.name)


def _complete(kinds: Sequence[_Kind]) -> bool:
    """Whether all is known that there may be to know.

    A namespace that was deleted took the right to list there with it, so one in which nothing may be listed is not
    waited for. Another one must show that the gateway has such rights at all: one without them that became ready would
    take the place of those that know all resources.
    """
    missing = [kind for kind in kinds if not kind.is_listed]
    listed = {kind.namespace for kind in kinds if kind.is_listed}
    return not missing or (
        bool(listed - {None})
        and all(kind.is_refused and kind.namespace is not None and kind.namespace not in listed for kind in missing)
    )


def _within(namespace: str | None) -> str:
    return "" if namespace is None else f"/namespaces/{namespace}"


def _key(body: Mapping[str, Any]) -> tuple[str, str]:
    metadata = body["metadata"]
    return metadata.get("namespace", ""), metadata["name"]


def _needed(kind: str, body: Object) -> Object:
    """Of a certificate not its key."""
    if kind != "Certificate":
        return body
    data = body.get("data") or {}
    return {
        "metadata": body["metadata"],
        "type": body["type"],
        "data": {name: value for name, value in data.items() if name == ENTRY},
    }


def _without_entries(kind: str, body: Object) -> Object:
    """A Secret of another type: of its changes nothing would be heard, so that alone is kept of it."""
    wanted = _SECRET_TYPES[kind]
    logger.warning(
        "Secret %s/%s has type %r and is not read: %s come from those of type %s; if it holds one, delete it and "
        "make it anew with type %s (a Secret's type can't be changed)",
        *_key(body), body["type"], "keys" if kind == "Secret" else "certificates", wanted, wanted,
    )  # fmt: skip
    return {"metadata": body["metadata"], "type": body["type"]}


def _means(body: Mapping[str, Any]) -> list[Any]:
    """What counts of an object: the operator writes statuses all the time."""
    annotations = body.get("metadata", {}).get("annotations")
    return [annotations, *(body.get(field) for field in ("spec", "data", "endpoints", "ports"))]


def _secret_names(data: Any, reference: str, field: str) -> Iterator[str]:
    """What is in this field of every such reference below."""
    if isinstance(data, Mapping):
        found = data.get(reference)
        if isinstance(found, Mapping) and isinstance(found.get(field), str):
            yield found[field]
        for value in data.values():
            yield from _secret_names(value, reference, field)
    elif isinstance(data, list):
        for value in data:
            yield from _secret_names(value, reference, field)
