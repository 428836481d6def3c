"""Before a pool gets smaller: tell Kubernetes which pods to remove first.

The price of a pod is the gain per step of the requests at its engine, so the engine whose loss costs least goes. Set
only when a Deployment is about to shrink: prices change with every request, and each one is a write.
"""

import asyncio
import logging

from proserve_core.pools import EnginePool
from proserve_operator.kube_client import Kube, KubeError
from proserve_operator.names import DELETION_COST_ANNOTATION, qualified_name
from proserve_operator.reports import Reports

logger = logging.getLogger(__name__)

HIGHEST = 2**31 - 1
MOST_PODS = 100
"""Of a pool, so that shrinking a large one is not a flood of requests: the cheapest ones are priced."""
LOWEST = -(2**31)
AT_ONCE = 8
"""Requests under way."""
LIMIT_S = 10.0
"""Of all prices together: a slow API server must not keep a pool from shrinking."""


async def price_pods(kube: Kube, reports: Reports, pool: EnginePool) -> None:
    """Annotate the pods of the pool's engines.

    Pods without a price cost 0. Where all engines are priced those are pods that no gateway knows, which serve nobody
    and go first; where only the cheapest ones are, prices are below 0, so that the dear ones stay. If time runs out,
    that must still be so: dear ones are priced first where all are, cheap ones where those alone are.
    """
    stakes = reports.stakes(qualified_name(pool.namespace, pool.name))
    few = len(stakes) <= MOST_PODS
    lowest, highest = (1, HIGHEST) if few else (LOWEST, -1)
    cheapest = sorted(stakes.items(), key=lambda item: item[1])[:MOST_PODS]
    waiting = iter(reversed(cheapest) if few else cheapest)

    async def price_next() -> None:
        for name, stake in waiting:
            price = {DELETION_COST_ANNOTATION: str(min(lowest + round(stake), highest))}
            try:
                await kube.annotate("Pod", pool.namespace, name.rpartition("/")[2], price)
            except KubeError as error:
                # Without a price Kubernetes chooses by age and node, which is no reason to keep an engine.
                logger.warning("pod %s/%s is not priced: %s", pool.namespace, name, error)

    try:
        async with asyncio.timeout(LIMIT_S):
            await asyncio.gather(*(price_next() for _ in range(AT_ONCE)))
    except TimeoutError:
        logger.warning("pool %s/%s: not all pods were priced within %g s", pool.namespace, pool.name, LIMIT_S)
