"""Statuses of PriorityClasses and Tenants: whether they are in force, whether keys are there, what gain came.

PriorityClasses belong to the whole cluster, so only an operator that looks after all of it writes their status: others
know the figures and the Tenants of their namespaces alone, and several would write over each other for ever.
"""

import logging
from typing import Any

from proserve_operator.accepted import Accepted
from proserve_operator.conditions import told
from proserve_operator.figures import FIGURES, pool_figures, subject_figures
from proserve_operator.keys_condition import keys_condition
from proserve_operator.kube_client import TYPES, KubeError
from proserve_operator.names import qualified_name
from proserve_operator.pool_status import accepted as accepted_condition
from proserve_operator.reports import Reports
from proserve_operator.status_writer import StatusWriter
from proserve_operator.store import Key, Object, Store
from proserve_operator.work_queue import Retry

logger = logging.getLogger(__name__)


class ResourceStatuses:
    """Works on classes and tenants by key."""

    def __init__(
        self, *, store: Store, accepted: Accepted, reports: Reports, statuses: StatusWriter, whole_cluster: bool
    ) -> None:
        self._whole_cluster = whole_cluster
        self._store = store
        self._accepted = accepted
        self._reports = reports
        self._statuses = statuses

    async def reconcile(self, kind: str, key: Key) -> float | None:
        """Write the status of one resource; after how many seconds to look again.

        Raises:
            Retry: the API server could not take it now.
        """
        body = self._store.get(kind, key)
        if body is None:
            self._statuses.forget(kind, key)
            return None
        generation = self._accepted.judged_generation(kind, body)
        if generation is None:
            return None
        rows = [accepted_condition(self._accepted.problems(kind, key))]
        if not self._is_ours(kind):
            if not rows[0].status:
                logger.warning("%s %s is not accepted: %s", kind, key[1], rows[0].message)
            return None
        if kind == "Tenant":
            rows.append(keys_condition(self._reports, kind, key, body))
        try:
            figures = self._figures(kind, key)
            return await self._statuses.write(kind, body, rows, {}, figures, generation=generation)
        except KubeError as error:
            if error.status == 404:
                return None
            logger.warning("%s %s: %s; tried again later", kind, key[1], error)
            raise Retry(error.retry_after_s) from error

    def has_news(self, kind: str, key: Key, body: Object) -> bool:
        """Whether the gateways' reports say something about a resource that its status does not."""
        if not self._is_ours(kind):
            return False
        status = body.get("status", {})
        if kind == "EnginePool":
            figures = pool_figures(self._reports.window, qualified_name(*key))
        else:
            figures = self._figures(kind, key)
        if figures != {name: status[name] for name in FIGURES if name in status}:
            return True
        return kind != "PriorityClass" and not told(keys_condition(self._reports, kind, key, body), status)

    def _is_ours(self, kind: str) -> bool:
        return self._whole_cluster or TYPES[kind].namespaced

    def _figures(self, kind: str, key: Key) -> dict[str, Any]:
        what, name = ("tenant", qualified_name(*key)) if kind == "Tenant" else ("class", key[1])
        return subject_figures(self._reports.window, what, name)
