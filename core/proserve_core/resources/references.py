"""Checks between documents: names that refer to others, values that must be unique, sums over all.

They look at what could be read of each document, so that one run lists these errors beside the ones within documents.
Some hold only for documents that are all there is, as files are (`whole`): in a cluster they come one by one.
"""

from collections.abc import Generator, Iterable, Iterator, Sequence
from typing import Any

import msgspec

from proserve_core.objectives import OverloadAction
from proserve_core.resources.engine_pools import ENGINE_POOL
from proserve_core.resources.errors import ResourceError, show, suggestion
from proserve_core.resources.kinds import Reading
from proserve_core.resources.precedence import ANONYMOUS, Precedence, headroom_claim, key_claim, model_claim
from proserve_core.resources.priority_classes import PRIORITY_CLASS, SHARE_ANNOTATION
from proserve_core.resources.secrets import OPAQUE, SECRET, has_entry, other_type, secret_values
from proserve_core.resources.tenants import TENANT

_OVERLOAD_CLASS = "spec.overload.className"
_SHARES_ROUNDED = 0.0101
"""How far from 1 shares may add up to: three like classes, in percent, lack one. Draws are relative."""


class _Index(msgspec.Struct, frozen=True, kw_only=True):
    classes: dict[str, Reading]
    tenants: list[Reading]
    pools: list[Reading]
    secrets: dict[tuple[str, str], Reading]


def check_references(
    readings: Sequence[Reading], *, whole: bool = True, precedence: Precedence | None = None
) -> list[ResourceError]:
    """Everything wrong between the documents. Of two that exclude each other the one without `precedence` is wrong,
    by default the later one."""
    precedence = precedence or Precedence()
    of_kind = {
        kind.name: [reading for reading in readings if reading.kind is kind and reading.name is not None]
        for kind in (PRIORITY_CLASS, TENANT, ENGINE_POOL, SECRET)
    }
    index = _Index(
        classes={str(reading.name): reading for reading in of_kind[PRIORITY_CLASS.name]},
        tenants=of_kind[TENANT.name],
        pools=of_kind[ENGINE_POOL.name],
        secrets={(reading.namespace, str(reading.name)): reading for reading in of_kind[SECRET.name]},
    )
    return [
        *_duplicates(readings),
        *_degradation(index),
        *_headroom(index, precedence),
        *(_shares(index) if whole else ()),
        *_tenant_classes(index),
        *_anonymous(index, precedence),
        *_api_keys(index, precedence),
        *_endpoint_keys(index),
        *_models(index, precedence),
        *(_unserved_models(index) if whole else ()),
    ]


def _error(reading: Reading, path: str, problem: str, fix: str, *, others: Iterable[Reading] = ()) -> ResourceError:
    sources = tuple(other.source for other in others)
    return ResourceError(source=reading.source, path=path, problem=problem, fix=fix, others=sources)


def _duplicates(readings: Sequence[Reading]) -> Iterator[ResourceError]:
    first: dict[tuple[str, str, str], Reading] = {}
    for reading in readings:
        if reading.name is None:
            continue
        key = (reading.kind.name, reading.namespace, reading.name)
        if key in first:
            yield _error(
                reading,
                "metadata.name",
                f"{show(reading.name)} is there twice, first in {first[key].source}",
                "rename or remove one of the two",
            )
        first.setdefault(key, reading)


def _weight(reading: Reading | None) -> int | None:
    weight: int | None = None if reading is None else reading.spec.get("weight")
    return weight


def _unknown_class(reading: Reading, path: str, name: str, index: _Index) -> ResourceError:
    return _error(reading, path, f"there is no PriorityClass {show(name)}", suggestion(name, index.classes))


def _degradation(index: _Index) -> Iterator[ResourceError]:
    target_of: dict[str, str] = {}
    for name, reading in index.classes.items():
        overload = reading.spec.get("overload", {})
        target = overload.get("className")
        if target is None or overload.get("action") != OverloadAction.DEGRADE:
            continue
        if target not in index.classes:
            yield _unknown_class(reading, _OVERLOAD_CLASS, target, index)
            continue
        target_of[name] = target
        own, other = _weight(reading), _weight(index.classes[target])
        if own is not None and other is not None and other > own:
            yield _error(
                reading,
                _OVERLOAD_CLASS,
                f"{show(target)} is heavier ({other}) than this class ({own})",
                "degrade to a class that is not heavier",
                others=[index.classes[target]],
            )
    for name in target_of:
        chain = [name]
        while chain[-1] in target_of and len(chain) <= len(target_of):
            chain.append(target_of[chain[-1]])
            if chain[-1] == name:
                yield _error(
                    index.classes[name],
                    _OVERLOAD_CLASS,
                    f"degrades in a circle: {' -> '.join(chain)}",
                    "let one of these classes Queue or Shed",
                    others=[index.classes[other] for other in chain[1:-1]],
                )
                break


def _headroom(index: _Index, precedence: Precedence) -> Iterator[ResourceError]:
    wanted = {
        name: percent
        for name, reading in index.classes.items()
        if (percent := reading.spec.get("headroom", {}).get("percent")) is not None
    }
    percents: dict[str, int] = {}
    for reading in precedence.order((index.classes[name], headroom_claim(wanted[name])) for name in wanted):
        percents[str(reading.name)] = wanted[str(reading.name)]
        total = sum(percents.values())
        if total > 100:
            parts = ", ".join(f"{name} {value}" for name, value in percents.items())
            yield _error(
                reading,
                "spec.headroom.percent",
                f"the headroom of all classes adds up to {total} ({parts})",
                "lower some of them to at most 100 in all",
            )
            return


def _shares(index: _Index) -> Iterator[ResourceError]:
    path = f"metadata.annotations[{SHARE_ANNOTATION}]"
    if not any(reading.has(path) for reading in index.classes.values()):
        return
    lacking = [reading for reading in index.classes.values() if not reading.has(path)]
    for reading in lacking:
        yield _error(reading, path, "is missing while other classes have one", "give all classes a share or none")
    shares = [reading.annotations.get(SHARE_ANNOTATION) for reading in index.classes.values()]
    known = [float(share) for share in shares if isinstance(share, str)]
    if len(known) == len(shares) and abs(sum(known) - 1) > _SHARES_ROUNDED:
        yield _error(
            next(iter(index.classes.values())),
            path,
            f"the shares of all classes add up to {sum(known):g}",
            "let them add up to 1",
        )


def _tenant_classes(index: _Index) -> Iterator[ResourceError]:
    for reading in index.tenants:
        own, highest = (reading.spec.get(field) for field in ("priorityClassName", "maxPriorityClassName"))
        for path, name in (("spec.priorityClassName", own), ("spec.maxPriorityClassName", highest)):
            if name is not None and name not in index.classes:
                yield _unknown_class(reading, path, name, index)
        own_weight = _weight(index.classes.get(own)) if own is not None else None
        highest_weight = _weight(index.classes.get(highest)) if highest is not None else None
        if own_weight is not None and highest_weight is not None and highest_weight < own_weight:
            yield _error(
                reading,
                "spec.maxPriorityClassName",
                f"{show(highest)} (weight {highest_weight}) is lighter than the tenant's own class "
                f"{show(own)} (weight {own_weight})",
                "name a class that is at least as heavy",
                others=[index.classes[name] for name in (own, highest) if name in index.classes],
            )


def _anonymous(index: _Index, precedence: Precedence) -> Iterator[ResourceError]:
    wanting = [reading for reading in index.tenants if reading.spec.get("anonymous") is True]
    ordered = precedence.order((reading, ANONYMOUS) for reading in wanting)
    for reading in ordered[1:]:
        yield _error(
            reading,
            "spec.anonymous",
            f"requests without a key already belong to the tenant of {ordered[0].source}",
            "set anonymous: true for one tenant only",
        )


def _api_keys(index: _Index, precedence: Precedence) -> Iterator[ResourceError]:
    places: dict[bytes, list[tuple[Reading, str]]] = {}
    for reading in index.tenants:
        for number, entry in enumerate(reading.spec.get("apiKeys", ())):
            path = f"spec.apiKeys[{number}].secretKeyRef"
            value = yield from _secret_entry(reading, path, entry, index)
            if value is not None:
                places.setdefault(value, []).append((reading, path))
    for value, wanting in places.items():
        owner = precedence.order((reading, key_claim(value)) for reading, _ in wanting)[0]
        kept = next(path for reading, path in wanting if reading is owner)
        for reading, path in wanting:
            if reading is owner and path == kept:
                continue
            yield _error(
                reading,
                path,
                f"holds the same API key as {owner.source} {kept}",
                "a key names one tenant: make another key or remove the entry",
            )


def _endpoint_keys(index: _Index) -> Iterator[ResourceError]:
    for reading in index.pools:
        for number, endpoint in enumerate(reading.spec.get("endpoints", ())):
            if endpoint is not None and "apiKey" in endpoint:
                path = f"spec.endpoints[{number}].apiKey.secretKeyRef"
                yield from _secret_entry(reading, path, endpoint["apiKey"], index)


def _secret_entry(
    reading: Reading, path: str, entry: Any, index: _Index
) -> Generator[ResourceError, None, bytes | None]:
    """Follow `entry.secretKeyRef`; returns the value when it can be sent as a bearer token. Never shows it."""
    ref = (entry or {}).get("secretKeyRef", {})
    if "name" not in ref or "key" not in ref:
        return None
    secret = index.secrets.get((reading.namespace, ref["name"]))
    if secret is None:
        names = [name for namespace, name in index.secrets if namespace == reading.namespace]
        problem = f"there is no Secret {show(ref['name'])} in namespace {reading.namespace}"
        yield _error(reading, f"{path}.name", problem, suggestion(ref["name"], names))
        return None
    if (kind := other_type(secret)) is not None:
        yield _error(
            reading,
            f"{path}.name",
            f"{secret.source} has type {show(kind)}, and keys are read from type {OPAQUE} only",
            f"delete it and make it anew with type {OPAQUE} (a Secret's type can't be changed)",
        )
        return None
    values = secret_values(secret)
    if ref["key"] not in values:
        if not has_entry(secret, ref["key"]):
            problem = f"{secret.source} has no entry {show(ref['key'])}"
            yield _error(reading, f"{path}.key", problem, suggestion(ref["key"], values))
        return None
    value = values[ref["key"]]
    if not value:
        yield _error(reading, path, f"the entry in {secret.source} is empty", "put the key there")
    elif value.strip() != value:
        problem = f"the entry in {secret.source} begins or ends with white space (often a line end)"
        yield _error(reading, path, problem, "encode it without, e.g. printf %s KEY | base64")
    elif not all(0x21 <= byte <= 0x7E for byte in value):
        problem = f"the entry in {secret.source} has characters that a bearer token can't have"
        yield _error(reading, path, problem, "use printable ASCII without spaces")
    else:
        return value
    return None


def _model_name(reading: Reading) -> str | None:
    name: str | None = reading.spec.get("model", {}).get("name")
    return name


def _models(index: _Index, precedence: Precedence) -> Iterator[ResourceError]:
    wanting = [(reading, model_claim(name)) for reading in index.pools if (name := _model_name(reading)) is not None]
    first: dict[str | None, Reading] = {}
    for reading in precedence.order(wanting):
        name = _model_name(reading)
        if name in first:
            yield _error(
                reading,
                "spec.model.name",
                f"{show(name)} is already served by {first[name].source}",
                "rename one of the models, or put all engines in one pool",
            )
        first.setdefault(name, reading)


def _unserved_models(index: _Index) -> Iterator[ResourceError]:
    served = [_model_name(reading) for reading in index.pools]
    names = [name for name in served if name is not None]
    if not served or len(names) < len(served):
        return
    for reading in index.tenants:
        for number, model in enumerate(reading.spec.get("models", ())):
            if model is not None and model not in names:
                yield _error(
                    reading, f"spec.models[{number}]", f"no EnginePool serves {show(model)}", suggestion(model, names)
                )
