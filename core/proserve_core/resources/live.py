"""Resources of a cluster, which change one by one and by many hands: what of them is in force.

Files are taken as a whole or not at all. In a cluster that would let one team's mistake stop everybody's changes, so
here each document stands for itself. Of one that is wrong the last right version stays in force; one that never was
right is left out. Of two that exclude each other the newcomer is wrong (`proserve_core.resources.precedence`). A class
that was deleted stays in force while another document names it. The exception is keys: an entry of a Secret that is
gone must stop working, so only that entry of its tenant is left out.
"""

import copy
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec
from msgspec.structs import astuple

from proserve_core.resources.documents import Document
from proserve_core.resources.errors import ResourceError, ResourceErrors
from proserve_core.resources.kinds import Reading
from proserve_core.resources.model import Resources
from proserve_core.resources.parse import parse_documents
from proserve_core.resources.precedence import ANONYMOUS, Claim, Precedence, headroom_claim, key_claim, model_claim
from proserve_core.resources.secrets import SECRET, secret_values

Data = Mapping[str, Any]

_KEY_ENTRY = re.compile(r"spec\.apiKeys\[(\d+)\]\.secretKeyRef(\.\w+)?")


class DocumentKey(msgspec.Struct, frozen=True, order=True):
    """Which document."""

    kind: str
    namespace: str
    """Empty for what belongs to the whole cluster."""
    name: str


class Settled(msgspec.Struct, frozen=True, kw_only=True):
    """What is in force."""

    resources: Resources
    in_force: Mapping[DocumentKey, Data]
    """Documents as they are in force: what the next call takes as `last_good`."""
    problems: Mapping[DocumentKey, tuple[ResourceError, ...]]
    """What is wrong with documents as they are now."""


def settle(documents: Mapping[DocumentKey, Data], last_good: Mapping[DocumentKey, Data]) -> Settled:
    """The largest part of `documents` that makes sense together, with older versions in place of wrong ones."""
    current = {**_deleted_classes(documents, last_good), **documents}
    older = {key: data for key, data in last_good.items() if key in current and current[key] is not data}
    precedence = Precedence(
        held={astuple(key): frozenset(_claims(key, data, last_good)) for key, data in last_good.items()},
        created={astuple(key): _created(data) for key, data in current.items()},
    )
    problems: dict[DocumentKey, list[ResourceError]] = {}
    while True:
        names = {f"cluster#{number}": key for number, key in enumerate(sorted(current))}
        read = [Document(source=source, data=dict(current[key])) for source, key in names.items()]
        try:
            resources = parse_documents(read, whole=False, precedence=precedence)
        except ResourceErrors as refused:
            wrong = _by_document(refused.errors, names)
        else:
            return Settled(
                resources=resources,
                in_force=current,
                problems={key: tuple(errors) for key, errors in sorted(problems.items())},
            )
        for key, errors in _blamed(wrong, current, older, last_good, names).items():
            problems.setdefault(key, []).extend(error for error in errors if error not in problems.get(key, []))
            without = _without_key_entries(current[key], errors)
            if without is not None:
                current[key] = without
            elif key in older:
                current[key] = older.pop(key)
            else:
                del current[key]


def _claims(key: DocumentKey, data: Data, documents: Mapping[DocumentKey, Data]) -> Iterator[Claim]:
    """What a document has that is in force."""
    spec = data.get("spec", {})
    if key.kind == "EnginePool":
        yield model_claim(spec["model"]["name"])
    elif key.kind == "PriorityClass":
        yield from map(headroom_claim, range(spec.get("headroom", {}).get("percent", 0) + 1))
    elif key.kind == "Tenant":
        if spec.get("anonymous") is True:
            yield ANONYMOUS
        for entry in spec.get("apiKeys", ()):
            ref = entry["secretKeyRef"]
            secret: Any = documents.get(DocumentKey("Secret", key.namespace, ref["name"]), {})
            if (value := secret_values(Reading(SECRET, "", dict(secret))).get(ref["key"])) is not None:
                yield key_claim(value)


def _created(data: Data) -> str:
    metadata = data.get("metadata")
    return str(metadata.get("creationTimestamp", "")) if isinstance(metadata, Mapping) else ""


def _blamed(
    wrong: Mapping[DocumentKey, Sequence[ResourceError]],
    current: Mapping[DocumentKey, Data],
    older: Mapping[DocumentKey, Data],
    last_good: Mapping[DocumentKey, Data],
    names: Mapping[str, DocumentKey],
) -> dict[DocumentKey, list[ResourceError]]:
    """Errors by the document that has to give way. One that was right and is as it was did nothing: those that were
    edited and contradict it have made it wrong."""
    blamed: dict[DocumentKey, list[ResourceError]] = {}
    for key, errors in wrong.items():
        untouched = key in last_good and _says(current[key]) == _says(last_good[key])
        for error in errors:
            edited = []
            if untouched:
                edited = [
                    other
                    for other in error.others
                    if (changed := _key(other, names)) in older and _says(older[changed]) != _says(current[changed])
                ]
            for other in edited:
                blamed.setdefault(_key(other, names), []).append(_from_the_side_of(other, error))
            if not edited:
                blamed.setdefault(key, []).append(error)
    return blamed


def _says(data: Data) -> tuple[Any, Any]:
    """What counts of a custom resource."""
    metadata = data.get("metadata")
    return data.get("spec"), metadata.get("annotations") if isinstance(metadata, Mapping) else None


def _from_the_side_of(other: str, error: ResourceError) -> ResourceError:
    place = error.source.partition(" (")[2].removesuffix(")")
    return ResourceError(
        source=other,
        path="spec",
        problem=f"contradicts {place}, which is in force ({error.path}: {error.problem})",
        fix=f"undo the change, or change {place} first",
    )


def _key(source: str, names: Mapping[str, DocumentKey]) -> DocumentKey:
    return names[source.split(" (", 1)[0]]


def _by_document(
    errors: Iterable[ResourceError], names: Mapping[str, DocumentKey]
) -> dict[DocumentKey, list[ResourceError]]:
    found: dict[DocumentKey, list[ResourceError]] = {}
    for error in errors:
        found.setdefault(_key(error.source, names), []).append(error)
    return found


def _without_key_entries(data: Data, errors: Iterable[ResourceError]) -> Data | None:
    """The document without the keys that `errors` are about; None if they are about something else, too, or if
    nothing would be left."""
    matches = [_KEY_ENTRY.fullmatch(error.path) for error in errors]
    if not all(matches):
        return None
    gone = {int(match[1]) for match in matches if match is not None}
    kept = [entry for index, entry in enumerate(data["spec"]["apiKeys"]) if index not in gone]
    if not kept and data["spec"].get("anonymous") is not True:
        return None
    changed = copy.deepcopy(dict(data))
    if kept:
        changed["spec"]["apiKeys"] = kept
    else:
        del changed["spec"]["apiKeys"]
    return changed


def _deleted_classes(
    documents: Mapping[DocumentKey, Data], last_good: Mapping[DocumentKey, Data]
) -> dict[DocumentKey, Data]:
    """Classes that are gone and still named."""
    kept: dict[DocumentKey, Data] = {}
    gone = {key.name: key for key in last_good if key.kind == "PriorityClass" and key not in documents}
    if not gone:
        return kept
    named = {name for data in documents.values() for name in _class_names(data)}
    while names := named & gone.keys():
        for name in names:
            key = gone.pop(name)
            kept[key] = last_good[key]
            named |= _class_names(last_good[key])
    return kept


def _class_names(data: Data) -> set[str]:
    spec = data.get("spec")
    if not isinstance(spec, dict):
        return set()
    overload = spec.get("overload")
    names = [spec.get("priorityClassName"), spec.get("maxPriorityClassName")]
    if isinstance(overload, dict):
        names.append(overload.get("className"))
    return {name for name in names if isinstance(name, str)}
