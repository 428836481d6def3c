"""Which pools may roll because the operator itself makes their pods otherwise than before: a few at a time.

A new version or option of the operator changes the pods of all pools at once. Each would begin to roll, and a bad
version would reach every engine. So of such rollouts only a few are under way; the others wait in a Deployment that is
paused: it has the new pods' template, its engines serve on, and Kubernetes scales and repairs it as before. Who changes
a pool waits for nobody, and a pool that rolls anyway takes the operator's change with it.

What is under way stands in the Deployments: a label says which wait and which have begun for the operator's sake, and
annotations say of which template and of which generation of the pool each was made. A rollout that does not get done
keeps its place, so a version whose engines do not start stops there.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from proserve_operator.drift import holds, mark_of
from proserve_operator.kube_client import Kube
from proserve_operator.names import ANNOTATION_PREFIX, HASH_ANNOTATION
from proserve_operator.store import Key, Object, Store, key_of, pool_key

ROLLOUT_LABEL = f"{ANNOTATION_PREFIX}/rollout"
WAITING = "waiting"
BEGUN = "begun"
"""For the operator's sake; it may be done since."""
TEMPLATE_ANNOTATION = f"{ANNOTATION_PREFIX}/template"
GENERATION_ANNOTATION = f"{ANNOTATION_PREFIX}/pool-generation"


class RolloutTurns:
    """Over all pools of this operator."""

    def __init__(self, kube: Kube, store: Store, *, namespaces: Sequence[str], at_once: int) -> None:
        self._kube = kube
        self._store = store
        self._namespaces: Sequence[str | None] = namespaces or (None,)
        self._at_once = at_once
        self._all_known = False
        self._beginning: set[Key] = set()
        """Deployments that are let go and not applied yet."""
        self._unseen: dict[Key, str | None] = {}
        """Those that were applied and of which the store may not say so yet, with the mark of their template."""

    async def arrange(self, made: Object, there: Mapping[str, Any] | None, *, generation: int) -> Object:
        """The Deployment as it should be applied now: as `made`, or waiting. `generation` is the pool's.

        Raises:
            KubeError: the API server does not say what is under way.
        """
        template = mark_of(made["spec"]["template"])
        marks = {TEMPLATE_ANNOTATION: template, GENERATION_ANNOTATION: str(generation)}
        state = None if there is None else _state(made, there, marks)
        if state == WAITING:
            await self._know_all()
            key = key_of(made)
            if len(self._under_way() - {key}) < self._at_once:
                state = BEGUN
                self._beginning.add(key)
        return _marked(made, marks, state)

    def applied(self, key: Key, body: Object | None) -> None:
        """What came of the Deployment; None: it could not be applied."""
        if key in self._beginning:
            self._beginning.discard(key)
            if body is not None:
                self._unseen[key] = _mark(body, TEMPLATE_ANNOTATION)

    def next_after(self, pool: Key) -> list[Key]:
        """Pools whose turn it is when that one was looked at, in the order of their names."""
        waiting = sorted(key for _, body in self._with_state(WAITING) if (key := pool_key(body)) is not None)
        # Those that wait wake nobody: one that can't begin now would be looked at again and again.
        if not waiting or pool in waiting:
            return []
        return waiting[: max(0, self._at_once - len(self._under_way()))]

    async def _know_all(self) -> None:
        """What the watches show at first comes in any order, so a new operator asks once what others have begun."""
        if self._all_known:
            return
        for namespace in self._namespaces:
            async for metadata in self._kube.versions("Deployment", namespace, managed=True):
                key = key_of({"metadata": metadata})
                if rollout_state({"metadata": metadata}) == BEGUN and self._store.get("Deployment", key) is None:
                    there = await self._kube.get("Deployment", *key)
                    if there is not None:
                        self._store.put_reply("Deployment", there, asked=None)
        self._all_known = True

    def _under_way(self) -> set[Key]:
        for key, template in list(self._unseen.items()):
            there = self._store.get("Deployment", key)
            if there is None or (rollout_state(there) == BEGUN and _mark(there, TEMPLATE_ANNOTATION) == template):
                del self._unseen[key]
        rolling = {key for key, body in self._with_state(BEGUN) if is_rolling(body)}
        return rolling | self._beginning | self._unseen.keys()

    def _with_state(self, state: str) -> Iterator[tuple[Key, Object]]:
        return ((key, body) for key, body in self._store.all("Deployment") if rollout_state(body) == state)


def _state(made: Object, there: Mapping[str, Any], marks: Mapping[str, str]) -> str | None:
    """WAITING: it is the operator's own change that would roll it. BEGUN: it does already. None: neither."""
    template, generation = _mark(there, TEMPLATE_ANNOTATION), _mark(there, GENERATION_ANNOTATION)
    if template is None:
        # Of an operator that left no marks.
        rolls = not holds(made["spec"]["template"], there["spec"]["template"])
    else:
        rolls = template != marks[TEMPLATE_ANNOTATION]
    if not rolls:
        return rollout_state(there)
    if generation is not None and generation != marks[GENERATION_ANNOTATION]:
        # The pool was changed, too.
        return None
    if there["spec"].get("replicas") == 0:
        # A pool that sleeps or is stopped has no engine to lose, and shall wake with the right ones.
        return BEGUN
    rolls_anyway = not there["spec"].get("paused") and not _is_done(there)
    return BEGUN if rolls_anyway else WAITING


def rollout_state(deployment: Mapping[str, Any]) -> str | None:
    """WAITING, BEGUN or None."""
    state: str | None = deployment["metadata"].get("labels", {}).get(ROLLOUT_LABEL)
    return state


def is_rolling(deployment: Mapping[str, Any]) -> bool:
    """Whether pods are being replaced. One that somebody holds (`kubectl rollout pause`) takes nobody's place."""
    if deployment["spec"].get("paused"):
        return False
    seen = deployment.get("status", {}).get("observedGeneration", 0)
    return seen < deployment["metadata"].get("generation", 0) or not _is_done(deployment)


def _is_done(deployment: Mapping[str, Any]) -> bool:
    return any(
        each["type"] == "Progressing" and each.get("reason") == "NewReplicaSetAvailable"
        for each in deployment.get("status", {}).get("conditions", ())
    )


def _mark(deployment: Mapping[str, Any], annotation: str) -> str | None:
    value: str | None = deployment["metadata"].get("annotations", {}).get(annotation)
    return value


def _marked(made: Object, marks: Mapping[str, str], state: str | None) -> Object:
    metadata = made["metadata"]
    annotations = {**metadata["annotations"], **marks}
    labels, spec = metadata["labels"], made["spec"]
    if state is not None:
        labels = {**labels, ROLLOUT_LABEL: state}
        # So that leaving out what was there counts as a difference.
        annotations[HASH_ANNOTATION] += f"-{state}"
    if state == WAITING:
        spec = {**spec, "paused": True}
    return {**made, "metadata": {**metadata, "annotations": annotations, "labels": labels}, "spec": spec}
