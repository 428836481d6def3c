"""Before a pool gets smaller: tell Kubernetes which pods to remove first.

The price of a pod is the gain per step of the requests at its engine, so the engine whose loss costs least goes. Set
only when a Deployment is about to shrink: prices change with every request, and each one is a write.
"""

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


async def price_pods(kube: Kube, reports: Reports, pool: EnginePool) -> None:
    """Annotate the pods of the pool's engines.

    Pods without a price cost 0. Where all engines are priced those are pods that no gateway knows, which serve nobody
    and go first; where only the cheapest ones are, prices are below 0, so that the dear ones stay.
    """
    stakes = reports.stakes(qualified_name(pool.namespace, pool.name))
    lowest, highest = (1, HIGHEST) if len(stakes) <= MOST_PODS else (LOWEST, -1)
    for name, stake in sorted(stakes.items(), key=lambda item: item[1])[:MOST_PODS]:
        price = {DELETION_COST_ANNOTATION: str(min(lowest + round(stake), highest))}
        try:
            await kube.annotate("Pod", pool.namespace, name.rpartition("/")[2], price)
        except KubeError as error:
            # Without a price Kubernetes chooses by age and node, which is no reason to keep an engine.
            logger.warning("pod %s/%s is not priced: %s", pool.namespace, name, error)
