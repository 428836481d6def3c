"""Time-outs on the command line."""

import msgspec
import pytest
import typer

from proserve_cli.timeouts import FIELDS, parse_timeouts
from proserve_gateway.upstream.exchange import UpstreamLimits


def test_every_name_sets_a_field_of_the_gateways_limits() -> None:
    found = parse_timeouts([f"{name}=1m30s" for name in FIELDS])
    limits = msgspec.structs.replace(UpstreamLimits(), **found)
    assert {getattr(limits, field) for field in FIELDS.values()} == {90.0}
    assert parse_timeouts([]) == {}


def test_all_errors_are_told_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit) as caught:
        parse_timeouts(["connect=5", "silence", "patience=1s", "total=0s", "headers=1s"])
    assert caught.value.exit_code == 2
    told = capsys.readouterr().err
    assert "connect=5: add a unit: '5ms' or '5s'" in told
    assert told.count("a name of connect, headers, silence") == 2
    assert "total=0s: it must be more than 0" in told
