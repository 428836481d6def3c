"""Alert rules: Prometheus takes them, each fires when it should, and each says what to do."""

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from monitoring_tools import needs

ROOT = Path(__file__).parents[2]
RULES = sorted((ROOT / "charts/proserve/rules").glob("*.yaml"))
TESTS = sorted(Path(__file__).parent.glob("*alerts.yaml"))


def alerts() -> dict[str, dict[str, Any]]:
    groups = [group for file in RULES for group in yaml.safe_load(file.read_text())["groups"]]
    return {rule["alert"]: rule for group in groups for rule in group["rules"] if "alert" in rule}


@pytest.mark.parametrize("arguments", [["check", "rules", *map(str, RULES)], ["test", "rules", *map(str, TESTS)]])
def test_prometheus_accepts_the_rules_and_they_fire_as_they_should(arguments: list[str]) -> None:
    done = subprocess.run([needs("promtool"), *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_has_a_case_in_which_it_fires() -> None:
    cases = [case for file in TESTS for case in yaml.safe_load(file.read_text())["tests"]]
    fired = {each["alertname"] for case in cases for each in case.get("alert_rule_test", ()) if each["exp_alerts"]}
    assert fired == set(alerts())


def test_every_alert_leads_to_a_section_that_says_what_to_do() -> None:
    headings = [line[3:] for line in (ROOT / "docs/alerts.md").read_text().splitlines() if line.startswith("## ")]
    assert set(headings) == set(alerts())
    for name, rule in alerts().items():
        assert rule["annotations"]["runbook"] == f"docs/alerts.md#{name.lower()}"
        assert rule["labels"]["severity"] in ("critical", "warning")
