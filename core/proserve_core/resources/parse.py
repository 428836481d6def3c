"""From YAML texts or decoded documents to a consistent set of resources, or every error at once.

Pure: callers read the files. A set with any error is refused as a whole, so that whoever has a good one keeps it.
"""

from collections.abc import Iterable, Mapping

from proserve_core.resources.documents import Document, read_yaml
from proserve_core.resources.engine_pools import ENGINE_POOL, build_engine_pool
from proserve_core.resources.errors import ResourceError, ResourceErrors, show, suggestion
from proserve_core.resources.kinds import API_VERSION, GROUP, Kind, Reading
from proserve_core.resources.model import Resources, WithoutEffect
from proserve_core.resources.precedence import Precedence
from proserve_core.resources.priority_classes import PRIORITY_CLASS, SHARE_ANNOTATION, build_priority_class
from proserve_core.resources.references import check_references
from proserve_core.resources.secrets import SECRET, build_secret
from proserve_core.resources.tenants import TENANT, build_tenant

CUSTOM_KINDS = (PRIORITY_CLASS, TENANT, ENGINE_POOL)
KINDS = (*CUSTOM_KINDS, SECRET)


def parse_resources(
    texts: Mapping[str, str], *, require_pools: bool = False, require_tenants: bool = False
) -> Resources:
    """Read YAML texts by name (usually the file's), each with any number of documents.

    Raises:
        ResourceErrors: anything is wrong.
    """
    yaml_texts = [read_yaml(name, text) for name, text in texts.items()]
    return _resources(
        [document for text in yaml_texts for document in text.documents],
        [error for text in yaml_texts for error in text.errors],
        complete=all(text.complete for text in yaml_texts),
        require_pools=require_pools,
        require_tenants=require_tenants,
    )


def parse_documents(
    documents: Iterable[Document],
    *,
    require_pools: bool = False,
    require_tenants: bool = False,
    whole: bool = True,
    precedence: Precedence | None = None,
) -> Resources:
    """The same for documents that somebody else decoded. Without `whole` they come one by one: a tenant may name a
    model that no pool serves yet, and shares of simulations need not add up. `precedence` says which of two is wrong
    that exclude each other, instead of their order.

    Raises:
        ResourceErrors: anything is wrong.
    """
    return _resources(
        list(documents),
        [],
        complete=True,
        require_pools=require_pools,
        require_tenants=require_tenants,
        whole=whole,
        precedence=precedence,
    )


def _resources(
    documents: list[Document],
    yaml_errors: list[ResourceError],
    *,
    complete: bool,
    require_pools: bool,
    require_tenants: bool,
    whole: bool = True,
    precedence: Precedence | None = None,
) -> Resources:
    errors, readings = list(yaml_errors), []
    for document in documents:
        found = _kind(document)
        if isinstance(found, ResourceError):
            errors.append(found)
            complete = False
        else:
            kind, data = found
            reading = Reading(kind, document.source, data)
            readings.append(reading)
            errors += reading.reader.errors
    if complete:
        # With documents missing or not recognised, these would mostly name consequences of what is listed already.
        errors += check_references(readings, whole=whole, precedence=precedence)
        for kind, required in ((ENGINE_POOL, require_pools), (TENANT, require_tenants)):
            if required and not any(reading.kind is kind for reading in readings):
                errors.append(_nothing_of(kind))
    if errors:
        raise ResourceErrors(errors)
    of_kind = {kind.name: [reading for reading in readings if reading.kind is kind] for kind in KINDS}
    return Resources(
        priority_classes=tuple(map(build_priority_class, of_kind[PRIORITY_CLASS.name])),
        tenants=tuple(map(build_tenant, of_kind[TENANT.name])),
        engine_pools=tuple(map(build_engine_pool, of_kind[ENGINE_POOL.name])),
        secrets=tuple(map(build_secret, of_kind[SECRET.name])),
        class_shares={
            str(reading.name): float(reading.annotations[SHARE_ANNOTATION])
            for reading in of_kind[PRIORITY_CLASS.name]
            if SHARE_ANNOTATION in reading.annotations
        },
        without_effect=tuple(
            WithoutEffect(source=reading.source, path=path, reason=effect.value)
            for reading in readings
            for path, effect in reading.reader.without_effect.items()
        ),
    )


def _nothing_of(kind: Kind) -> ResourceError:
    return ResourceError(
        source="resources", path="", problem=f"there is no {kind.name}", fix=f"add one: {kind.description}"
    )


def _kind(document: Document) -> tuple[Kind, dict[object, object]] | ResourceError:
    data = document.data
    if not isinstance(data, dict):
        return _refused(document, "", f"is {show(data)}, not a resource", "begin it with apiVersion and kind")
    name, version = data.get("kind"), data.get("apiVersion")
    if not isinstance(name, str):
        problem = f"got {show(name)}" if "kind" in data else "is missing"
        return _refused(document, "kind", problem, f"write one of {', '.join(kind.name for kind in KINDS)}")
    if isinstance(version, str) and version.startswith("scheduling.k8s.io/"):
        return _refused(
            document,
            "apiVersion",
            f"{show(version)} is the PriorityClass of Kubernetes, which orders pods",
            f"for a class of requests write apiVersion: {API_VERSION}",
        )
    for kind in KINDS:
        if kind.name == name:
            if version == kind.api_version:
                return kind, data
            problem = f"got {show(version)} for a {name}" if "apiVersion" in data else "is missing"
            return _refused(document, "apiVersion", problem, f"write apiVersion: {kind.api_version}")
    return _refused(
        document,
        "kind",
        f"{show(name)} is none of ours ({GROUP} resources and v1 Secret)",
        suggestion(name, [kind.name for kind in KINDS]),
    )


def _refused(document: Document, path: str, problem: str, fix: str) -> ResourceError:
    return ResourceError(source=document.source, path=path, problem=problem, fix=fix)
