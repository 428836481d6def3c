"""What is exposed is what is documented, and labels stay bounded."""

import asyncio
from collections.abc import Iterable
from pathlib import Path

import pytest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from fake_openai_engine import fake_engine
from gateway_builders import gateway
from proserve_core.objectives import DEFAULT_CLASS
from proserve_gateway.fleet.metrics import MAX_REASONS, RouteCounter
from proserve_gateway.metrics import OTHER, PREFIX, GatewayMetrics
from proserve_gateway.seeing.accounting import Accounting
from proserve_gateway.seeing.accounting_metrics import AccountingCollector
from proserve_gateway.seeing.metrics_docs import all_metrics, metrics_markdown

DOCUMENT = Path(__file__).parents[3] / "docs" / "metrics.md"


def test_document_is_up_to_date() -> None:
    assert f"\n{metrics_markdown()}\n<!-- end generated -->" in DOCUMENT.read_text(), "run make docs"


def test_every_exposed_family_is_declared_and_prefixed() -> None:
    metrics = all_metrics()
    families = text_string_to_metric_families(asyncio.run(metrics.render()).decode())
    exposed = {f"{family.name}_total" if family.type == "counter" else family.name for family in families}
    assert exposed == {row.name for row in metrics.table}
    assert all(name.startswith(PREFIX) for name in exposed)


def samples(families: Iterable[Metric]) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
    }


def test_what_is_written_is_what_the_registry_holds() -> None:
    metrics = GatewayMetrics()
    accounting = Accounting(metrics)
    AccountingCollector(accounting, metrics)
    odd = 'a "quoted"\\name\nof two lines, 100%'
    entry = accounting.open(terms=DEFAULT_CLASS.terms(), tenant="t", model=odd, arrival_s=0.0)
    entry.tokens(0.1, 3)
    entry.close()
    metrics.engine_failures.labels(odd, "lost").inc(1e9)
    metrics.wait.labels("p", "c").observe(0.25)
    written = samples(text_string_to_metric_families(asyncio.run(metrics.render()).decode()))
    assert written == samples(metrics.registry.collect())
    assert written[f"{PREFIX}engine_failures_total", frozenset({("pool", odd), ("reason", "lost")})] == 1e9


async def test_others_have_their_turn_during_a_scrape_and_may_add_series(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proserve_gateway.metrics.SLICE_S", -1.0)  # it gives way after every line
    metrics = GatewayMetrics()
    accounting = Accounting(metrics)
    AccountingCollector(accounting, metrics)

    def add(tenant: str) -> None:
        accounting.open(terms=DEFAULT_CLASS.terms(), tenant=tenant, model="m", arrival_s=0.0).close(status=200)
        accounting.refused(401, tenant=tenant)

    for number in range(20):
        add(f"before-{number}")
    scrape = asyncio.ensure_future(metrics.render())
    turns = 0
    while not scrape.done():
        turns += 1
        add(f"meanwhile-{turns}")
        await asyncio.sleep(0)
    lines = (await scrape).decode().splitlines()
    assert turns > 200
    assert sum(line.startswith(f"{PREFIX}requests_in_flight{{") for line in lines) >= 20


def test_free_text_of_policies_cannot_grow_without_bound() -> None:
    metrics = GatewayMetrics()
    counter = RouteCounter(metrics)
    for number in range(MAX_REASONS + 10):
        counter("chat", f"reason {number}")
    labels = {"pool": "chat", "reason": OTHER}
    assert metrics.registry.get_sample_value(f"{PREFIX}route_decisions_total", labels) == 10


async def test_nothing_that_a_client_writes_becomes_a_label() -> None:
    odd = "who-wrote-this"
    async with fake_engine("a") as engine, gateway(engine) as running:
        await running.chat(user=odd, headers={"x-proserve-class": "low", "x-request-id": odd, "traceparent": odd})
        await running.chat(headers={"x-proserve-class": odd})
        await running.chat(model=odd)
        await running.chat(key=odd)
        await running.chat(max_tokens=odd)
        await running.client.get(f"/v1/{odd}")
        text = (await running.metrics.render()).decode()
        before = len(text.splitlines())
        for number in range(20):
            await running.chat(model=f"{odd}-{number}", key=f"{odd}-{number}")
        assert len((await running.metrics.render()).decode().splitlines()) == before
    assert odd not in text
    assert 'code="404"' in text
    assert 'code="401"' in text
