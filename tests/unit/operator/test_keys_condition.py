"""Whether the keys that a resource names are there, as gateways report it."""

from typing import Any

import pytest

from proserve_core.gain_report import GainReport
from proserve_operator.keys_condition import keys_condition
from proserve_operator.reports import Reports
from resource_builders import Data, endpoint_pool, engine_pool, keyed_tenant, tenant

REFERENCE = {"secretKeyRef": {"name": "keys", "key": "x"}}
KEYED_ENDPOINT = endpoint_pool()
KEYED_ENDPOINT["spec"]["endpoints"][0]["apiKey"] = REFERENCE
KEYED = [
    keyed_tenant("a"),
    engine_pool("a", engine={"keys": REFERENCE}),
    KEYED_ENDPOINT,
    engine_pool("a", engine={"tls": {"secretName": "engine-tls"}}),
]
FIELDS = [
    "spec.apiKeys[0].secretKeyRef",
    "spec.engine.keys.secretKeyRef",
    "spec.endpoints[0].apiKey.secretKeyRef",
    "spec.engine.tls.secretName",
]


def reports(**problems: list[str]) -> Reports:
    made = Reports(None)
    named: dict[str, Any] = {f"{kind}/default/a": lines for kind, lines in problems.items()}
    made.newest = [
        GainReport(instance="g", classes={}, tenants={}, pools={}, engines=[], problems=named),
    ]
    made.window.take(made.newest, now_s=0.0)
    return made


def status(made: Reports, body: Data) -> tuple[str, str]:
    found = keys_condition(made, body["kind"], ("default", "a"), body)
    return found.status_text, str(found.reason)


@pytest.mark.parametrize("body", [tenant("a"), engine_pool("a"), endpoint_pool("a")])
def test_resource_without_keys_misses_none(body: Data) -> None:
    assert status(Reports(None), body) == ("True", "KeysFound")


@pytest.mark.parametrize("body", KEYED)
def test_nobody_knows_while_no_gateway_reports(body: Data) -> None:
    assert status(Reports(None), body) == ("Unknown", "GatewaySilent")


@pytest.mark.parametrize(("body", "field"), list(zip(KEYED, FIELDS, strict=True)))
def test_keys_that_are_missing_are_named(body: Data, field: str) -> None:
    line = f"{field}: is gone; add it"
    made = reports(**{body["kind"]: [line, "spec.model.name: is taken; rename"]})
    assert status(made, body) == ("False", "KeysMissing")
    assert keys_condition(made, body["kind"], ("default", "a"), body).message == line
    assert status(reports(), body) == ("True", "KeysFound")
