"""Follows one kind of object of the Kubernetes API: list, then watch from there, for as long as it is asked to.

As client-go's reflector does it: a watch goes on from the version that it has seen, whatever breaks in between, and
everything is listed anew only when the API server no longer knows that version. While it does not answer, nothing
changes. A watch that is silent for longer than bookmarks take is taken for dead, and one that ends at once without a
word for a failure (client-go's "very short watch"): whatever repeats itself is asked for ever more rarely.
"""

import asyncio
import logging
import os
import random
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import aiohttp
import msgspec
from kubernetes.aio import client as kubernetes_client
from kubernetes.aio import config as kubernetes_config

logger = logging.getLogger(__name__)

Object = dict[str, Any]

PAGE = 500
ANSWER_S = 30.0
WATCH_S = 300
"""After which a watch is begun anew, give or take a tenth."""
SILENCE_S = 90.0
"""API servers send a bookmark every minute."""
SHORT_WATCH_S = 1.0
FIRST_PAUSE_S = 0.2
LONGEST_PAUSE_S = 5.0
FORBIDDEN_AFTER = 5
"""Refusals in a row: rights that were granted just now need a moment to count everywhere."""


class ClusterError(Exception):
    """There is no cluster, or it refuses what the gateway needs."""


class ForbiddenError(ClusterError):
    """The gateway has not the right to list or watch."""


class Follower(Protocol):
    """Who is told."""

    def listed(self, objects: Sequence[Object]) -> None:
        """All objects that there are."""

    def changed(self, event: str, body: Object) -> None:
        """One was ADDED, MODIFIED or DELETED."""

    def forbidden(self, *, refused: bool) -> None:
        """The list or watch was refused for want of rights, several times in a row, and is still asked for; or, not
        `refused`, it is followed again after that."""


class Expired(Exception):  # noqa: N818 - part of the protocol
    """The version to go on from is forgotten."""


async def connect() -> kubernetes_client.ApiClient:
    """A client for the cluster that this pod runs in, or for the one of the kubeconfig.

    Raises:
        ClusterError: there is neither.
    """
    configuration = kubernetes_client.Configuration()
    try:
        file = os.environ.get("KUBECONFIG")
        if os.environ.get("KUBERNETES_SERVICE_HOST") and not file:
            kubernetes_config.load_incluster_config(client_configuration=configuration)
        else:
            await kubernetes_config.load_kube_config(config_file=file, client_configuration=configuration)
    except (kubernetes_config.ConfigException, OSError) as error:
        raise ClusterError(f"no cluster: {error}; run this in a pod, or set KUBECONFIG") from error
    return kubernetes_client.ApiClient(configuration)


async def get(api: kubernetes_client.ApiClient, path: str) -> Object | None:
    """One object; None if there is none.

    Raises:
        ClusterError: the API server refuses it or does not answer.
    """
    try:
        status, content = await _read(api, path, {})
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise ClusterError(f"{path}: the API server does not answer: {error!r}") from error
    if status == 404:
        return None
    if status != 200:
        raise ClusterError(f"{path}: {_message(content, status)}")
    found: Object = msgspec.json.decode(content)
    return found


class KubeWatch:
    """One list and watch."""

    def __init__(
        self, api: kubernetes_client.ApiClient, path: str, follower: Follower, *, query: Mapping[str, str] | None = None
    ) -> None:
        """`query` holds selectors."""
        self._api = api
        self._path = path
        self._follower = follower
        self._query = dict(query or {})
        self._version = ""
        self._failures = 0
        """In a row."""
        self._refusals = 0
        """In a row, for want of rights."""
        self._told_refused = False
        self._expired = False
        """The version was forgotten, and no watch has lasted since."""

    async def run(self) -> None:
        """Follow until cancelled."""
        while True:
            try:
                if not self._version:
                    await self._list()
                await self._watch()
            except Expired:
                self._version = ""
                if self._expired:
                    await self._failed(ClusterError("the API server forgets versions that it has just listed"))
                self._expired = True
            except (ClusterError, aiohttp.ClientError, TimeoutError, OSError, msgspec.DecodeError) as error:
                await self._failed(error)

    async def _failed(self, error: Exception) -> None:
        """Pause, longer with each failure; only the first is worth a line."""
        self._failures += 1
        if self._failures == 1:
            logger.warning("%s is not followed: %s: %s", self._path, type(error).__name__, error)
        self._refusals = self._refusals + 1 if isinstance(error, ForbiddenError) else 0
        if self._refusals >= FORBIDDEN_AFTER and not self._told_refused:
            self._told_refused = True
            self._follower.forbidden(refused=True)
        pause_s = min(FIRST_PAUSE_S * 2.0 ** min(self._failures - 1, 16), LONGEST_PAUSE_S)
        await asyncio.sleep(pause_s * (0.75 + 0.5 * random.random()))

    def _succeeded(self) -> None:
        if self._failures:
            logger.info("%s is followed again", self._path)
        if self._told_refused:
            self._told_refused = False
            self._follower.forbidden(refused=False)
        self._failures = self._refusals = 0
        self._expired = False

    async def _list(self) -> None:
        objects: list[Object] = []
        query = {**self._query, "limit": str(PAGE)}
        while True:
            status, content = await _read(self._api, self._path, query)
            if status == 410 and "limit" in query:
                # The rest of the pages is forgotten.
                objects, query = [], {**self._query}
                continue
            if status != 200:
                raise _refusal(content, status)
            page = msgspec.json.decode(content)
            objects += page["items"] or ()
            more = page["metadata"].get("continue")
            if not more:
                self._version = page["metadata"]["resourceVersion"]
                self._follower.listed(objects)
                return
            query["continue"] = more

    async def _watch(self) -> None:
        query = {
            **self._query,
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": self._version,
            "timeoutSeconds": str(round(WATCH_S * (0.9 + 0.2 * random.random()))),
        }
        timeout = aiohttp.ClientTimeout(total=None, connect=ANSWER_S, sock_read=SILENCE_S)
        reply = await _request(self._api, self._path, query, timeout)
        loop = asyncio.get_running_loop()
        began_s, heard = loop.time(), False
        steady: asyncio.TimerHandle | None = None
        try:
            if reply.status == 410:
                raise Expired
            if reply.status != 200:
                raise _refusal(await reply.read(), reply.status)
            steady = loop.call_later(SHORT_WATCH_S, self._succeeded)
            buffer = bytearray()
            async for chunk in reply.response.content.iter_any():
                buffer += chunk
                *lines, rest = buffer.split(b"\n")
                buffer = bytearray(rest)
                for line in lines:
                    self._event(msgspec.json.decode(line))
                    heard = True
                    self._succeeded()
            if not heard and loop.time() - began_s < SHORT_WATCH_S:
                raise ClusterError("the watch ended at once, without an event")
        finally:
            if steady is not None:
                steady.cancel()
            reply.response.close()

    def _event(self, event: Object) -> None:
        body = event["object"]
        if event["type"] == "ERROR":
            if body.get("code") == 410:
                raise Expired
            raise ClusterError(str(body.get("message", body)))
        self._version = body["metadata"]["resourceVersion"]
        if event["type"] != "BOOKMARK":
            self._follower.changed(event["type"], body)


async def _read(api: kubernetes_client.ApiClient, path: str, query: Mapping[str, str]) -> tuple[int, bytes]:
    reply = await _request(api, path, query, aiohttp.ClientTimeout(total=ANSWER_S))
    content: bytes = await reply.read()
    return reply.status, content


async def _request(
    api: kubernetes_client.ApiClient, path: str, query: Mapping[str, str], timeout: aiohttp.ClientTimeout
) -> Any:
    prepared = await api.param_serialize(
        "GET",
        path,
        query_params=list(query.items()),
        header_params={"Accept": "application/json"},
        auth_settings=["BearerToken"],
    )
    return await api.call_api(*prepared, _request_timeout=timeout)


def _refusal(content: bytes, status: int) -> ClusterError:
    return (ForbiddenError if status == 403 else ClusterError)(_message(content, status))


def _message(content: bytes, status: int) -> str:
    try:
        return f"{status}: {msgspec.json.decode(content)['message']}"
    except (msgspec.DecodeError, KeyError, TypeError):
        return f"status {status}"
