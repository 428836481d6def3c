"""`proserve bench route` measures the policies it is asked for."""

import json

from typer.testing import CliRunner

from proserve_cli.main import app


def test_asked_policy_is_measured_at_each_fleet_and_load() -> None:
    done = CliRunner().invoke(app, ["bench", "route", "--decisions", "10", "--router", "round-robin", "--json"])
    assert done.exit_code == 0, done.output
    cases = [(item["router"], item["engines"], item["load"]) for item in json.loads(done.stdout)]
    assert cases == [("round-robin", engines, load) for engines in (64, 256) for load in ("room", "full")]


def test_unknown_policy_is_a_usage_error() -> None:
    done = CliRunner().invoke(app, ["bench", "route", "--router", "rr"])
    assert done.exit_code == 2
    assert "--router: 'rr' does not exist; known: go-full" in done.output
