"""Reports of gateways, over HTTP."""

from pathlib import Path

import kmock
import msgspec
import pytest

from proserve_core.gain import GainTotals
from proserve_core.gain_report import EngineReport, GainReport
from proserve_operator.reports import Reports

pytestmark = pytest.mark.kmock(cls=kmock.RawHandler)

REPORT = GainReport(
    instance="a",
    classes={"high": GainTotals(requests=3, earnable=3.0, earned=3.0)},
    tenants={},
    pools={},
    engines=[EngineReport(name="team/pod", pool="team/tiny", ready=True, stake=4.0)],
    loss_with_one_less={"team/tiny": 0.25},
    problems={"Tenant/team/bob": ["spec.apiKeys[0]: is gone; add it"]},
)


@pytest.fixture
async def reports(kmock: kmock.RawHandler) -> Reports:
    return Reports(str(kmock.url).rstrip("/"))


async def test_gateway_that_answers_is_read(kmock: kmock.RawHandler, reports: Reports) -> None:
    kmock["get /report"] << msgspec.json.encode(REPORT)
    await reports.read(now_s=0)
    assert reports.window.reporting
    assert reports.stakes("team/tiny") == {"team/pod": 4.0}
    assert reports.loss_with_one_less("team/tiny") == 0.25
    assert reports.loss_with_one_less("team/other") is None
    assert reports.problems("Tenant", "team", "bob") == ["spec.apiKeys[0]: is gone; add it"]


@pytest.mark.parametrize("answer", [503, b"<html>", b"{}", b'{"instance": "\xff"}'])
async def test_gateway_that_answers_nonsense_is_left_out(
    kmock: kmock.RawHandler, reports: Reports, answer: int | bytes
) -> None:
    kmock["get /report"] << answer
    await reports.read(now_s=0)
    assert (list(reports.newest), reports.window.reporting) == ([], False)


async def test_key_of_the_admin_port_is_sent_and_may_be_renewed(kmock: kmock.RawHandler, tmp_path: Path) -> None:
    kmock["get /report"] << msgspec.json.encode(REPORT)
    file = tmp_path / "key"
    reports = Reports(str(kmock.url).rstrip("/"), key_file=file)
    for key in ("first-key-of-gateways", "second-key-of-gateways"):
        file.write_text(f"{key}\nan-older-key-of-gateways\n")
        await reports.read(now_s=0)
    sent = [request.headers.get("Authorization") for request in kmock["get /report"]]
    assert sent == ["Bearer first-key-of-gateways", "Bearer second-key-of-gateways"]


async def test_host_that_is_not_known_is_no_gateway() -> None:
    reports = Reports("http://gateway.invalid:9090")
    await reports.read(now_s=0)
    assert not reports.window.reporting


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"short\n"])
async def test_key_file_that_can_not_be_used_is_told_and_ends_nothing(
    kmock: kmock.RawHandler, tmp_path: Path, caplog: pytest.LogCaptureFixture, content: bytes
) -> None:
    file = tmp_path / "key"
    file.write_bytes(content)
    kmock["get /report"] << 401
    reports = Reports(str(kmock.url).rstrip("/"), key_file=file)
    await reports.read(now_s=0)
    assert "no key for their admin port" in caplog.text
    file.write_text("\n" + "k" * 16 + "\n")
    await reports.read(now_s=1)
    assert [request.headers.get("Authorization") for request in kmock] == [None, f"Bearer {'k' * 16}"]
