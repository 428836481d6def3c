"""Compares what the watches have shown with what the API server has, so that a dead watch is noticed and harmless.

A watch can go silent without an error, and objects that are deleted while it is renewed are told by nobody. So at
intervals the versions of all objects are listed (metadata only). What the store lacks or has in an older version for
longer than `LAG_S` was missed: it is looked at from a fresh copy, and a watch that keeps missing things makes the
liveness probe fail. So does a kind that may be listed nowhere in the cluster: its watch is asked for without end
(`watching`), and whoever may not list is as deaf as a dead watch.
"""

import logging
from collections.abc import Callable, Sequence
from http import HTTPStatus

from proserve_operator.kube_client import TYPES, Kube, KubeError
from proserve_operator.store import Key, Object, Store, key_of, version

logger = logging.getLogger(__name__)

LAG_S = 20.0
"""Events may be on their way this long."""
DEAD_AFTER = 2
"""Audits in a row that find a watch behind, or that may not list a kind."""


class Audit:
    """One comparison after the other."""

    def __init__(
        self,
        kube: Kube,
        store: Store,
        *,
        namespaces: Sequence[str],
        managed_kinds: Sequence[str],
        own_kinds: Sequence[str],
        fix: Callable[[str, str | None, Object], None],
        on_missed: Callable[[str], None],
    ) -> None:
        """`fix` is told of what was missed as a watch would have done it; `on_missed` counts it."""
        self._kube = kube
        self._store = store
        self._namespaces = namespaces
        self._kinds = {kind: kind in managed_kinds for kind in (*own_kinds, *managed_kinds)}
        self._fix = fix
        self._on_missed = on_missed
        self._behind: dict[str, int] = {}
        self._forbidden: dict[str, int] = {}
        """Audits in a row in which a kind could not be listed in the cluster."""
        self.unlisted = 0
        """Lists of kinds, in a namespace or the cluster, that the last audit had no right to read."""
        self._suspects: dict[tuple[str, Key], str] = {}

    @property
    def dead(self) -> list[str]:
        """Kinds whose watch shows nothing any more."""
        return [
            kind for kind in self._kinds if max(self._behind.get(kind, 0), self._forbidden.get(kind, 0)) >= DEAD_AFTER
        ]

    async def look(self) -> bool:
        """The first half: note what differs now. True if anything does: then `settle` after `LAG_S`."""
        self.unlisted = 0
        self._suspects = {
            (kind, key): newest for kind in self._kinds for key, newest in (await self._differences(kind)).items()
        }
        if not self._suspects:
            self._behind.clear()
        return bool(self._suspects)

    async def settle(self) -> None:
        """The second half: what still differs as it did was missed."""
        missed: dict[str, list[Key]] = {}
        for (kind, key), seen in self._suspects.items():
            known = self._store.get(kind, key)
            if ("" if known is None else version(known)) == seen:
                missed.setdefault(kind, []).append(key)
        for kind in self._kinds:
            self._behind[kind] = self._behind.get(kind, 0) + 1 if kind in missed else 0
        for kind, keys in missed.items():
            logger.error("the watch of %s missed %d changes, such as %s/%s", kind, len(keys), *keys[0])
            for key in keys:
                self._on_missed(kind)
                await self._repair(kind, key)

    async def _differences(self, kind: str) -> dict[Key, str]:
        """Objects that differ, with the version that the store has of them."""
        there: dict[Key, str] = {}
        unknown: set[str] = set()
        scopes: Sequence[str | None] = self._namespaces or (None,)
        if not TYPES[kind].namespaced:
            scopes = (None,)
        for namespace in scopes:
            try:
                async for metadata in self._kube.versions(kind, namespace, managed=self._kinds[kind]):
                    there[metadata.get("namespace", ""), metadata["name"]] = metadata["resourceVersion"]
            except KubeError as error:
                if error.status != HTTPStatus.FORBIDDEN:
                    raise
                self.unlisted += 1
                logger.warning("%s of %s may not be listed: %s", kind, namespace or "the cluster", error)
                if namespace is None:
                    self._forbidden[kind] = self._forbidden.get(kind, 0) + 1
                    return {}
                # A namespace that was deleted took the right to list there with it; the others are compared.
                unknown.add(namespace)
        self._forbidden.pop(kind, None)
        known = {key: version(body) for key, body in self._store.all(kind) if key[0] not in unknown}
        there = {key: newest for key, newest in there.items() if key[0] not in unknown}
        return {key: known.get(key, "") for key in there.keys() | known.keys() if there.get(key) != known.get(key)}

    async def _repair(self, kind: str, key: Key) -> None:
        body = await self._kube.get(kind, *key)
        if body is not None:
            self._fix(kind, None, body)
        elif (known := self._store.get(kind, key)) is not None and key_of(known) == key:
            self._fix(kind, "DELETED", known)
