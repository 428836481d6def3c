"""What is exposed is what is documented, and labels stay bounded."""

import asyncio
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from fake_openai_engine import fake_engine
from gateway_builders import gateway
from proserve_gateway.fleet.metrics import MAX_REASONS, RouteCounter
from proserve_gateway.metrics import OTHER, PREFIX, GatewayMetrics
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
