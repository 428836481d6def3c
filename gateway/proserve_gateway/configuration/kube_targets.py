"""From EndpointSlices to engines. Pure.

The operator makes one headless Service per pool; its slices carry the pool's label. Whoever is `serving` is an engine,
also while it terminates: until its snapshot says that it drains, and while its streams end. What is not ready yet has
no model. Health beyond that is the poller's to find out.

The name of a port says whether a pod speaks TLS, and its slice has only those ports that it has. So while a rollout
gives TLS to a pool, or takes it, both kinds are reached. Certificates are for the Service's name: pods' addresses are
known to nobody before they are there.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from proserve_gateway.configuration.catalog import qualified_name
from proserve_gateway.fleet.target import EngineTarget, TlsPeer

POOL_LABEL = "proserve.dev/pool"
SERVICE_LABEL = "kubernetes.io/service-name"
_PORTS = {"http": ("http", "capacity"), "https": ("https", "capacity-https")}
"""Names of the Service's ports by scheme."""


def engine_targets(slices: Iterable[Mapping[str, Any]]) -> list[EngineTarget]:
    """The engines of all slices, each once, in the order of their names."""
    found: dict[str, EngineTarget] = {}
    for each in slices:
        for target in _targets(each):
            found.setdefault(target.name, target)
    return [found[name] for name in sorted(found)]


def _targets(each: Mapping[str, Any]) -> Iterator[EngineTarget]:
    metadata = each["metadata"]
    namespace = metadata["namespace"]
    labels = metadata.get("labels", {})
    pool = labels.get(POOL_LABEL)
    ports = {port.get("name"): port.get("port") for port in each.get("ports") or ()}
    scheme = "http" if "http" in ports else "https"
    http, capacity = (ports.get(name) for name in _PORTS[scheme])
    if pool is None or http is None:
        return
    peer = TlsPeer(server_name=f"{labels.get(SERVICE_LABEL)}.{namespace}.svc") if scheme == "https" else None
    for endpoint in each.get("endpoints") or ():
        address = endpoint["addresses"][0]
        if not _serves(endpoint.get("conditions") or {}):
            continue
        pod = (endpoint.get("targetRef") or {}).get("name") or address
        yield EngineTarget(
            name=qualified_name(namespace, pod),
            pool=qualified_name(namespace, pool),
            base_url=_url(scheme, address, http),
            capacity_url=None if capacity is None else _url(scheme, address, capacity),
            peer=peer,
        )


def _serves(conditions: Mapping[str, Any]) -> bool:
    """Absent conditions mean yes, and `serving` follows `ready` where it is absent (EndpointSlice API)."""
    ready = conditions.get("ready")
    serving = conditions.get("serving")
    return bool(ready is not False if serving is None else serving)


def _url(scheme: str, address: str, port: int) -> str:
    return f"{scheme}://[{address}]:{port}" if ":" in address else f"{scheme}://{address}:{port}"
