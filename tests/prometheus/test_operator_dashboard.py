"""The operator's dashboard and rules on what an operator exposes, through a real Prometheus."""

import json
import time
from pathlib import Path
from typing import Any

from local_server import QuietHandler, local_server
from monitoring_tools import prometheus, query
from proserve_operator.metrics import OperatorMetrics

CHART = Path(__file__).parents[2] / "charts/proserve"
PANELS = [
    panel for panel in json.loads((CHART / "dashboards/operator.json").read_text())["panels"] if panel["type"] != "row"
]
LIMIT_S = 300.0


def resource(condition: str, status: str, reason: str) -> dict[str, Any]:
    return {"status": {"conditions": [{"type": condition, "status": status, "reason": reason}]}}


RESOURCES = [
    ("EnginePool", resource("Ready", "True", "EnginesReady")),
    ("EnginePool", resource("Ready", "True", "EnginesReady")),
    ("EnginePool", resource("ScalingActive", "True", "Steady")),
    ("Tenant", resource("Accepted", "False", "Invalid")),
    ("Tenant", {"metadata": {}}),
]


def operator() -> OperatorMetrics:
    metrics = OperatorMetrics(queue_length=lambda: 3, resources=lambda: RESOURCES)
    metrics.begin(own_kinds=("EnginePool", "Tenant"), managed_kinds=("Deployment",))
    metrics.leader.set(1)
    metrics.gateways.set(2)
    return metrics


def test_resources_are_counted_by_their_conditions() -> None:
    lines = operator().render().decode().splitlines()
    (pools,) = (line for line in lines if "EnginesReady" in line)
    labels = 'condition="Ready",kind="EnginePool",reason="EnginesReady",status="True"'
    assert pools == f"proserve_operator_resources{{{labels}}} 2.0"
    assert len([line for line in lines if line.startswith("proserve_operator_resources{")]) == 3


def test_pool_that_lacks_engines_longest_is_told_and_no_other() -> None:
    def lacking(since: str, status: str = "False") -> tuple[str, dict[str, Any]]:
        body = resource("Complete", status, "SomeEnginesMissing")
        body["status"]["conditions"][0]["lastTransitionTime"] = since
        return "EnginePool", body

    def told(*pools: tuple[str, dict[str, Any]]) -> list[str]:
        lines = OperatorMetrics(queue_length=lambda: 0, resources=lambda: pools).render().decode().splitlines()
        return [line.split()[1] for line in lines if line.startswith("proserve_operator_engines_missing_since")]

    complete = lacking("1970-01-01T00:00:00Z", "True")
    assert told(complete, lacking("1970-01-01T02:00:00Z"), lacking("1970-01-01T01:00:00Z")) == ["3600.0"]
    assert told(complete) == []


def test_faults_are_counted_from_zero() -> None:
    text = operator().render().decode()
    assert 'proserve_operator_watch_missed_total{kind="Deployment"} 0.0' in text
    assert 'proserve_operator_reconciles_total{kind="Tenant",result="error"} 0.0' in text


def test_every_panel_shows_something_and_every_rule_can_be_evaluated(tmp_path: Path) -> None:
    metrics = operator()

    class Handler(QuietHandler):
        def do_GET(self) -> None:  # noqa: N802 - name of http.server
            # Each scrape finds that something happened.
            metrics.reconciles.labels("EnginePool", "ok").inc()
            metrics.reconcile_s.labels("EnginePool").observe(0.01)
            metrics.last_success_s.labels("EnginePool").set(time.time())
            metrics.events.labels("Deployment").inc()
            content = metrics.render()
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    rules = CHART / "rules/operator.yaml"
    with local_server(Handler) as address, prometheus(address, tmp_path, rules=rules) as client:
        end_s = time.monotonic() + LIMIT_S
        while True:
            empty = [
                f"{panel['title']}: {target['expr']}"
                for panel in PANELS
                for target in panel["targets"]
                if not query(client, target["expr"])
            ]
            groups = client.get("/api/v1/rules").json()["data"]["groups"]
            unwell = [rule["name"] for group in groups for rule in group["rules"] if rule["health"] != "ok"]
            if not empty and not unwell and groups:
                break
            assert time.monotonic() < end_s, (empty, unwell)
            time.sleep(0.5)
