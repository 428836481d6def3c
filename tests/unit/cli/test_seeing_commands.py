"""`proserve gain` and `proserve status` against an admin port in this process."""

import asyncio
import json
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner, Result

from admin_page import admin_page
from proserve_cli.gain_view import gain_table
from proserve_cli.main import app
from proserve_core.gain import GainTotals, LossCause
from proserve_core.gain_status import GainReply, GainSeries, GainStatus
from proserve_lab.free_port import free_port

HIGH = GainStatus.of(
    GainTotals(
        requests=10, slo_attained=9, tokens=100, earned=80.0, earnable=100.0,
        lost={LossCause.LATE_FIRST_TOKEN: 15.0, LossCause.SHED: 5.0},
    )
)  # fmt: skip
NOTHING = GainStatus.of(GainTotals())
GAIN = GainReply(
    windows={"1m": {"high": HIGH, "low": NOTHING}, "all": {"high": HIGH, "low": NOTHING}},
    ends_unix_s=[5.0, 10.0, 15.0],
    series={
        "high": GainSeries(earned=[0.0, 5.0, 10.0], earnable=[0.0, 10.0, 10.0]),
        "low": GainSeries(earned=[0.0] * 3, earnable=[0.0] * 3),
    },
)
STATUS = {
    "ready": False,
    "missing": ["pool chat: no engine can take requests"],
    "configuration_error": "res.yaml: PriorityClass high: weight must be at least 1",
    "engines": [
        {
            "name": "chat-0", "pool": "chat", "state": "suspected", "in_flight": 3, "poll_age_s": 4.2, "running": 2,
            "waiting": 1, "blocks": 200, "free_blocks": 50, "policy": "fcfs", "last_error": "[Errno 111] refused",
        },
        {"name": "chat-1", "pool": "chat", "state": "ready", "in_flight": 0},
    ],
    "classes": {"high": HIGH, "low": NOTHING},
}  # fmt: skip


def proserve(*args: str) -> Result:
    return CliRunner().invoke(app, list(args), prog_name="proserve", env={"COLUMNS": "200"})


def row(result: Result, name: str) -> list[str]:
    return next(line.split() for line in result.stdout.splitlines() if line.startswith(name))


def test_gain_table_has_windows_attainment_curve_and_causes() -> None:
    with admin_page({"/gain": GAIN}) as page:
        result = proserve("gain", "--admin", page.address)
    assert result.exit_code == 0
    assert row(result, "high") == ["high", "80.0%", "80.0%", "90.0%", "10", "▅█"]
    assert row(result, "low") == ["low", "-", "-", "-", "0"]
    assert "high   late_first_token 15.0%, shed 5.0%" in result.stdout


def test_long_history_is_summed_into_the_width_of_the_curve() -> None:
    long = GainReply(
        windows=GAIN.windows,
        ends_unix_s=[float(at) for at in range(700)],
        series={"high": GainSeries(earned=[1.0] * 700, earnable=[1.0] * 700)},
    )
    console = Console(width=200)
    with console.capture() as capture:
        console.print(gain_table(long))
    assert 10 <= capture.get().count("█") <= 15


def test_status_table_shows_why_it_is_not_ready_and_each_engine() -> None:
    with admin_page({"/status": STATUS}) as page:
        result = proserve("status", "--admin", page.address)
    assert result.exit_code == 0
    assert result.stdout.startswith("not ready: pool chat: no engine can take requests")
    assert "an older one is in force: res.yaml: PriorityClass high: weight must be at least 1" in result.stdout
    assert row(result, "chat-0")[1:8] == ["suspected", "fcfs", "3", "2", "1", "75%", "4.2"]
    assert "chat-0: [Errno 111] refused" in result.stdout
    assert row(result, "chat-1")[1:7] == ["ready", "-", "0", "-", "-", "-"]


def test_headroom_is_shown_where_there_is_some() -> None:
    use = {"priority_class": "high", "mode": "Entitlement", "held": 0.4, "used": 0.1, "lent": 0.3, "borrowed": 0.0}
    with admin_page({"/status": STATUS | {"headroom": {"chat": [use]}}}) as page:
        result = proserve("status", "--admin", page.address)
    assert row(result, "chat  ") == ["chat", "high", "Entitlement", "40%", "10%", "30%", "0%"]


@pytest.mark.parametrize(("command", "path"), [("gain", "/gain"), ("status", "/status")])
def test_json_is_the_gateways_own_answer(command: str, path: str) -> None:
    answer: object = GAIN if command == "gain" else STATUS
    with admin_page({path: answer}) as page:
        result = proserve(command, "--admin", page.address, "--format", "json")
    assert set(json.loads(result.stdout)) >= ({"windows", "series"} if command == "gain" else {"ready", "engines"})


@pytest.mark.parametrize("command", ["gain", "status", "explain"])
def test_gateway_that_is_not_there_is_one_clear_line(command: str) -> None:
    address = f"127.0.0.1:{free_port()}"
    result = proserve(*([command, "abc"] if command == "explain" else [command]), "--admin", address)
    assert result.exit_code == 1
    assert len(result.stderr.splitlines()) == 1
    assert f"no gateway answers on the admin port {address}" in result.stderr


def test_something_else_on_the_port_is_told_apart() -> None:
    with admin_page({"/gain": {"hello": "world"}}) as page:
        result = proserve("gain", "--admin", page.address)
    assert result.exit_code == 1
    assert f"{page.address} is not the admin port of a gateway of this release" in result.stderr


def test_key_comes_from_the_environment_or_a_file(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("sk-admin\nsk-before\n")
    with admin_page({"/gain": GAIN}, key="sk-admin") as page:
        refused = proserve("gain", "--admin", page.address)
        result = CliRunner().invoke(app, ["gain", "--admin", page.address], env={"PROSERVE_ADMIN_KEY": "sk-admin"})
        by_file = proserve("gain", "--admin", page.address, "--admin-key-file", str(file))
    assert refused.exit_code == 1
    assert "give its key by --admin-key-file or in PROSERVE_ADMIN_KEY" in refused.stderr
    assert (result.exit_code, by_file.exit_code) == (0, 0)
    assert proserve("gain", "--admin-key-file", str(tmp_path / "nowhere")).exit_code == 2


def test_watching_goes_on_when_the_gateway_is_away_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    with admin_page({"/gain": GAIN}) as page:
        looks = 0

        async def instead_of_waiting(_: float) -> None:
            nonlocal looks
            looks += 1
            page.answers = {"/gain": GAIN} if looks == 2 else {}
            if looks == 3:
                raise KeyboardInterrupt

        monkeypatch.setattr(asyncio, "sleep", instead_of_waiting)
        result = proserve("gain", "--admin", page.address, "--watch", "--format", "json")
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert ["windows" in line for line in lines] == [True, False, True]
    assert "nothing at /gain" in lines[1]["error"]
    assert result.exit_code == 0
