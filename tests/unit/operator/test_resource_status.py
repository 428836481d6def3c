"""Statuses of classes and tenants: who writes them."""

from typing import Any

import pytest

from fake_kube import FakeKube
from proserve_core.gain import GainTotals
from proserve_core.gain_report import GainReport
from proserve_operator.accepted import Accepted
from proserve_operator.events import Events
from proserve_operator.reports import Reports
from proserve_operator.resource_status import ResourceStatuses
from proserve_operator.status_writer import StatusWriter
from proserve_operator.store import Store
from resource_builders import priority_class, tenant

CLASS, TENANT = ("", "high"), ("default", "alice")


class Bench:
    """A class and a tenant of it, over a cluster in memory."""

    def __init__(self, *, whole_cluster: bool) -> None:
        self.kube, self.reports, store = FakeKube(), Reports(None), Store()
        accepted = Accepted(store)
        for (namespace, _), body in ((CLASS, priority_class("high")), (TENANT, tenant("alice"))):
            body["metadata"] |= {"generation": 1} | ({"namespace": namespace} if namespace else {})
            store.put(body["kind"], self.kube.put(body))
        accepted.judge()
        clock = lambda: 1000.0  # noqa: E731
        events = Events(self.kube, identity="me", clock=clock, wall_clock=clock)
        self.statuses = ResourceStatuses(
            store=store,
            accepted=accepted,
            reports=self.reports,
            statuses=StatusWriter(
                kube=self.kube, store=store, events=events, clock=clock, wall_clock=clock, status_s=60.0
            ),
            whole_cluster=whole_cluster,
        )

    def report(self) -> None:
        totals = GainTotals(requests=4, earnable=4.0, earned=3.0)
        # Sums of a gateway count from its first report on.
        for classes in ({}, {"high": totals}):
            report = GainReport(instance="g", classes=classes, tenants={}, pools={}, engines=[])
            self.reports.window.take([report], now_s=1000.0)

    def status(self, kind: str, key: tuple[str, str]) -> Any:
        return self.kube.objects[kind, *key].get("status")


async def test_operator_of_the_whole_cluster_tells_how_classes_do() -> None:
    bench = Bench(whole_cluster=True)
    bench.report()
    await bench.statuses.reconcile("PriorityClass", CLASS)
    status = bench.status("PriorityClass", CLASS)
    assert [(each["type"], each["status"]) for each in status["conditions"]] == [("Accepted", "True")]
    assert status["gain"]["ratio"] == "75.0%"


@pytest.mark.parametrize("reported", [False, True])
async def test_operator_of_some_namespaces_leaves_classes_alone(reported: bool) -> None:
    bench = Bench(whole_cluster=False)
    if reported:
        bench.report()
    assert not bench.statuses.has_news("PriorityClass", CLASS, priority_class("high"))
    await bench.statuses.reconcile("PriorityClass", CLASS)
    await bench.statuses.reconcile("Tenant", TENANT)
    assert bench.kube.requests == ["apply Tenant alice status"]
