"""The few things that the operator asks of the Kubernetes API, over the official client's async half.

Every request has a time limit; what the API server refuses is a `KubeError` with its own words. 429 and 5xx are
`retry`able: whoever asked comes again later (`work_queue`), with the pause that the server asked for, if it did.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Mapping
from typing import Any, Protocol

import aiohttp
import msgspec
from kubernetes.aio import client as kubernetes_client
from kubernetes.aio import config as kubernetes_config

from proserve_operator.names import FIELD_MANAGER

Object = dict[str, Any]

REQUEST_LIMIT_S = 30.0
PAGE = 500
"""Objects per reply of a list."""
MANAGED = f"app.kubernetes.io/managed-by={FIELD_MANAGER}"
"""Label selector of what we made."""


class ResourceType(msgspec.Struct, frozen=True):
    """Where objects of a kind live."""

    api: str
    """`api/v1` or `apis/GROUP/VERSION`."""
    plural: str
    namespaced: bool = True


TYPES: Mapping[str, ResourceType] = {
    "Deployment": ResourceType("apis/apps/v1", "deployments"),
    "EndpointSlice": ResourceType("apis/discovery.k8s.io/v1", "endpointslices"),
    "EnginePool": ResourceType("apis/proserve.dev/v1alpha1", "enginepools"),
    "Event": ResourceType("apis/events.k8s.io/v1", "events"),
    "NetworkPolicy": ResourceType("apis/networking.k8s.io/v1", "networkpolicies"),
    "Pod": ResourceType("api/v1", "pods"),
    "PodDisruptionBudget": ResourceType("apis/policy/v1", "poddisruptionbudgets"),
    "PriorityClass": ResourceType("apis/proserve.dev/v1alpha1", "priorityclasses", namespaced=False),
    "Service": ResourceType("api/v1", "services"),
    "ServiceMonitor": ResourceType("apis/monitoring.coreos.com/v1", "servicemonitors"),
    "Tenant": ResourceType("apis/proserve.dev/v1alpha1", "tenants"),
}


class KubeError(Exception):
    """The API server refused a request, or did not answer (`status` 0)."""

    def __init__(self, status: int, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after_s = retry_after_s

    @property
    def retry(self) -> bool:
        """Whether the same request may go well later."""
        return self.status in (0, 409, 429) or self.status >= 500


class Kube(Protocol):
    """What the operator does with the cluster."""

    async def get(self, kind: str, namespace: str, name: str) -> Object | None:
        """The object; None if there is none."""

    async def apply(self, made: Object, *, manager: str, subresource: str = "") -> Object:
        """Server-side apply: the fields of `made` are ours from now on."""

    async def delete(self, kind: str, namespace: str, name: str) -> None:
        """Delete the object if it is there."""

    async def annotate(self, kind: str, namespace: str, name: str, annotations: Mapping[str, str]) -> None:
        """Set annotations."""

    async def create(self, made: Object) -> None:
        """Create an object."""

    def versions(self, kind: str, namespace: str | None, *, managed: bool) -> AsyncIterator[Object]:
        """Metadata of all objects of a kind, or of those that we made."""

    async def serves(self, kind: str) -> bool:
        """Whether the API server knows the kind."""


class KubeClient:
    """`Kube` over HTTP."""

    def __init__(self, api: kubernetes_client.ApiClient, *, request_limit_s: float = REQUEST_LIMIT_S) -> None:
        self._api = api
        self._request_limit_s = request_limit_s

    @property
    def api(self) -> kubernetes_client.ApiClient:
        """For what else the official client can do (leases)."""
        return self._api

    async def close(self) -> None:
        await self._api.close()

    async def get(self, kind: str, namespace: str, name: str) -> Object | None:
        """See `Kube`."""
        try:
            return await self._request("GET", _path(kind, namespace, name))
        except KubeError as error:
            if error.status == 404:
                return None
            raise

    async def apply(self, made: Object, *, manager: str, subresource: str = "") -> Object:
        """See `Kube`."""
        metadata = made["metadata"]
        path = _path(made["kind"], metadata.get("namespace", ""), metadata["name"], subresource)
        query = [("fieldManager", manager), ("force", "true")]
        return await self._request("PATCH", path, body=made, query=query, content_type="application/apply-patch+yaml")

    async def delete(self, kind: str, namespace: str, name: str) -> None:
        """See `Kube`."""
        try:
            await self._request("DELETE", _path(kind, namespace, name))
        except KubeError as error:
            if error.status != 404:
                raise

    async def annotate(self, kind: str, namespace: str, name: str, annotations: Mapping[str, str]) -> None:
        """See `Kube`."""
        body = {"metadata": {"annotations": dict(annotations)}}
        path = _path(kind, namespace, name)
        await self._request("PATCH", path, body=body, content_type="application/merge-patch+json")

    async def create(self, made: Object) -> None:
        """See `Kube`."""
        await self._request("POST", _path(made["kind"], made["metadata"].get("namespace", "")), body=made)

    async def versions(self, kind: str, namespace: str | None, *, managed: bool) -> AsyncIterator[Object]:
        """See `Kube`."""
        more = ""
        while True:
            query = [("limit", str(PAGE)), *([("continue", more)] if more else [])]
            if managed:
                query.append(("labelSelector", MANAGED))
            accept = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
            page = await self._request("GET", _path(kind, namespace or ""), query=query, accept=accept)
            for item in page["items"] or ():
                yield item["metadata"]
            more = page["metadata"].get("continue", "")
            if not more:
                return

    async def serves(self, kind: str) -> bool:
        """See `Kube`."""
        found = TYPES[kind]
        try:
            served = await self._request("GET", f"/{found.api}")
        except KubeError as error:
            if error.status in (403, 404):
                return False
            raise
        return any(each["name"] == found.plural for each in served["resources"])

    async def _request(
        self,
        method: str,
        path: str,
        *,
        body: Object | None = None,
        query: list[tuple[str, str]] | None = None,
        content_type: str = "application/json",
        accept: str = "application/json",
    ) -> Object:
        headers = {"Accept": accept, "Content-Type": content_type}
        try:
            prepared = await self._api.param_serialize(
                method, path, query_params=query or [], header_params=headers, body=body, auth_settings=["BearerToken"]
            )
            reply = await self._api.call_api(*prepared, _request_timeout=self._request_limit_s)
            content: bytes = await reply.read()
        except (aiohttp.ClientError, TimeoutError, OSError, asyncio.IncompleteReadError) as error:
            raise KubeError(0, f"{method} {path}: the API server does not answer: {error!r}") from error
        if 200 <= reply.status <= 299:
            decoded: Object = msgspec.json.decode(content)
            return decoded
        raise KubeError(
            reply.status, f"{method} {path}: {_message(content, reply.status)}", retry_after_s=_retry_after(reply)
        )


async def connect() -> KubeClient:
    """A client for the cluster that this pod runs in, or for the one of the kubeconfig.

    Raises:
        KubeError: there is neither.
    """
    configuration = kubernetes_client.Configuration()
    try:
        file = os.environ.get("KUBECONFIG")
        if os.environ.get("KUBERNETES_SERVICE_HOST") and not file:
            kubernetes_config.load_incluster_config(client_configuration=configuration)
        else:
            await kubernetes_config.load_kube_config(config_file=file, client_configuration=configuration)
    except (kubernetes_config.ConfigException, OSError) as error:
        raise KubeError(0, f"no cluster: {error}; run this in a pod, or set KUBECONFIG") from error
    return KubeClient(kubernetes_client.ApiClient(configuration))


def _path(kind: str, namespace: str = "", name: str = "", subresource: str = "") -> str:
    found = TYPES[kind]
    parts = ["", found.api]
    if found.namespaced and namespace:
        parts += ["namespaces", namespace]
    return "/".join([*parts, found.plural, *filter(None, (name, subresource))])


def _message(content: bytes, status: int) -> str:
    try:
        message = msgspec.json.decode(content)["message"]
    except (msgspec.DecodeError, KeyError, TypeError):
        return f"status {status}"
    return str(message)


def _retry_after(reply: Any) -> float | None:
    try:
        return float(reply.getheader("Retry-After"))
    except (TypeError, ValueError):
        return None
