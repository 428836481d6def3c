"""Which of the operator's replicas acts: the one that holds the Lease, as Kubernetes' own controllers do it.

The official client's election, made to bear an API server that is away: it is not asked for longer than a moment, and
no answer is a failed try instead of an end. A leader that could not renew for `RENEW_S` stops acting before anybody
else may begin (`LEASE_S`); who ends in good order gives the Lease back, so that the next one begins at once.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
from kubernetes.aio.client import ApiException, V1Lease, V1ObjectMeta
from kubernetes.aio.leaderelection.electionconfig import Config
from kubernetes.aio.leaderelection.leaderelection import LeaderElection
from kubernetes.aio.leaderelection.resourcelock.leaselock import LeaseLock

logger = logging.getLogger(__name__)

LEASE_S = 15
RENEW_S = 10
RETRY_S = 2
ANSWER_S = 4.0
RELEASES = 2
"""Tries to give the Lease back: a renewal that was sent but not answered may come in between once."""


class PatientLock(LeaseLock):
    """A Lease whose API server may be slow or away."""

    async def get(self, name: str, namespace: str) -> Any:
        return await _answered(super().get(name, namespace), lambda error: (False, error))

    async def create(self, name: str, namespace: str, election_record: Any) -> bool:
        # Not the client's own `create`, which asks for the reply in a form that its own validation refuses.
        body = V1Lease(metadata=V1ObjectMeta(name=name), spec=self.update_lease(election_record))
        return bool(await _answered(self._created(namespace, body), lambda _: False))

    async def update(self, name: str, namespace: str, updated_record: Any) -> bool:
        return bool(await _answered(super().update(name, namespace, updated_record), lambda _: False))

    async def _created(self, namespace: str, body: V1Lease) -> bool:
        try:
            await self.api_instance.create_namespaced_lease(namespace, body)
        except ApiException as error:
            logger.warning("the lease %s was not made: %s", self.name, error.reason)
            return False
        return True

    async def release(self) -> None:
        """Let go, if the Lease is ours.

        It is read anew: what a renewal was answered is not kept by the client, so the Lease known here is one version
        behind, and a renewal that was cut short may have been written or not.
        """
        problem: ApiException | None = None
        for _ in range(RELEASES):
            found, answer = await self.get(self.name, self.namespace)
            problem = None if found else answer
            lease = self.lease_reference
            if found and lease is not None:
                if lease.spec is None or lease.spec.holder_identity != self.identity:
                    return
                lease.spec.holder_identity = None
                lease.spec.renew_time = None
                problem = await _answered(self._replaced(lease), lambda error: error)
            if problem is None:
                return
        logger.warning("the lease %s was not given back: %s", self.name, problem and problem.reason)

    async def _replaced(self, lease: V1Lease) -> ApiException | None:
        try:
            await self.api_instance.replace_namespaced_lease(name=self.name, namespace=self.namespace, body=lease)
        except ApiException as error:
            return error
        return None


async def _answered(request: Awaitable[Any], otherwise: Callable[[ApiException], Any]) -> Any:
    try:
        async with asyncio.timeout(ANSWER_S):
            return await request
    except (TimeoutError, aiohttp.ClientError, OSError) as error:
        return otherwise(ApiException(status=0, reason=f"the API server does not answer: {error!r}"))


async def lead(lock: PatientLock, act: Callable[[], Awaitable[None]], *, on_change: Callable[[bool], None]) -> None:
    """Wait for the Lease, then `act` while it is held; returns when `act` does and raises what it raises.

    `on_change` is told when leadership begins and ends.

    Raises:
        LeadershipLostError: the Lease could not be renewed; the process should end and begin again as a follower.
    """
    acting: asyncio.Task[None] | None = None
    lost = asyncio.Event()

    async def started() -> None:
        nonlocal acting
        logger.info("%s leads", lock.identity)
        on_change(True)
        acting = asyncio.ensure_future(act())
        try:
            await asyncio.shield(acting)
        finally:
            lost.set()

    async def stopped() -> None:
        logger.error("the lease %s is lost", lock.name)
        lost.set()

    config = Config(
        lock,
        lease_duration=LEASE_S,
        renew_deadline=RENEW_S,
        retry_period=RETRY_S,
        onstarted_leading=started,
        onstopped_leading=stopped,
    )
    election = asyncio.ensure_future(LeaderElection(config).run())
    over = asyncio.ensure_future(lost.wait())
    try:
        await asyncio.wait({election, over}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        on_change(False)
        for task in (election, over, acting):
            if task is not None and not task.done():
                task.cancel()
        await asyncio.wait({task for task in (election, over, acting) if task is not None})
        await lock.release()
    if acting is not None and not acting.cancelled():
        acting.result()
        return
    if not election.cancelled():
        election.result()
    raise LeadershipLostError(f"the lease {lock.name} is another replica's: this one begins anew")


class LeadershipLostError(Exception):
    """The Lease could not be renewed in time."""
