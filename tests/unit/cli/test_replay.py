"""`proserve replay` on a small record of an overloaded engine."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from typer.testing import CliRunner, Result

from proserve_cli.main import app
from proserve_core.gain import LossCause
from proserve_core.latency.calibrations import load_calibration
from proserve_core.objectives import ServiceObjectives, ServiceTerms
from proserve_core.request_record import RecordedEngine, RecordedFleet, RecordLine, RequestRecord

KIND = load_calibration("cpu-tiny")
CLASSES = """
apiVersion: proserve.dev/v1alpha1
kind: PriorityClass
metadata: {name: high}
spec: {weight: 4, objectives: {timeToFirstToken: 60s, timePerOutputToken: 10s}}
"""


def proserve(*args: str) -> Result:
    return CliRunner().invoke(app, list(args), prog_name="proserve")


def line(number: int) -> RecordLine:
    name, weight = (("high", 4), ("low", 1))[number % 2]
    terms = ServiceTerms(
        priority_class=name,
        weight=weight,
        first_token_gain=1,
        output_token_gain=1,
        objectives=ServiceObjectives(ttft_s=0.05, tpot_s=0.01),
    )
    return RecordLine(
        request=RequestRecord(
            id=f"r{number}", arrived_unix_s=1000.0 + number / 200, tenant="a", model="m", pool="p", terms=terms,
            expected_prompt_tokens=300, prompt_tokens=300, expected_output_tokens=40.0, output_tokens=40, ttft_s=2.0,
            last_token_s=4.0, ended_s=4.0, status=200, lost={LossCause.LATE_FIRST_TOKEN: 40.0 * weight},
        )
    )  # fmt: skip


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> Path:
    engine = RecordedEngine(
        name="p-0", pool="p", policy="fcfs", block_size=KIND.block_size, blocks=KIND.blocks,
        max_sequences=KIND.max_sequences, max_step_tokens=KIND.max_step_tokens, latency=KIND.latency,
    )  # fmt: skip
    fleet = RecordLine(fleet=RecordedFleet(at_unix_s=999.0, routers={"p": "min-load"}, engines=(engine,)))
    path = tmp_path_factory.mktemp("record") / "requests.jsonl"
    path.write_bytes(b"\n".join(map(msgspec.json.encode, [fleet, *map(line, range(200))])) + b"\n")
    return path


def report(*args: str) -> Any:
    result = proserve("replay", *args, "--format", "json")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def test_without_changes_the_recorded_engines_are_simulated(record: Path) -> None:
    found = report(str(record))
    assert found["as_it_was"]["setting"] == {"replicas": 1, "policies": ["fcfs"], "router": "min-load"}
    assert found["recorded_total"]["earned"] == 0
    assert "changed" not in found
    assert found["as_it_was"]["total"]["requests"] == 200


def test_more_engines_and_another_policy_would_have_earned_more(record: Path) -> None:
    found = report(str(record), "--replicas", "3", "--policy", "recoverable-gain", "--router", "go-full")
    assert found["changed"]["setting"] == {"replicas": 3, "policies": ["recoverable-gain"], "router": "go-full"}
    assert found["changed"]["total"]["tdg_ratio"] > found["as_it_was"]["total"]["tdg_ratio"] + 0.1


def test_other_objectives_of_a_class_change_that_class(record: Path, tmp_path: Path) -> None:
    file = tmp_path / "classes.yaml"
    file.write_text(CLASSES)
    found = report(str(record), "--classes", str(file))
    high, low = (found["changed"]["classes"][name] for name in ("high", "low"))
    assert high["tdg_ratio"] == 1.0
    assert low["tdg_ratio"] < 1.0


def test_table_has_recorded_simulated_and_changed_side_by_side(record: Path) -> None:
    result = proserve("replay", str(record), "--replicas", "2")
    assert result.exit_code == 0
    assert "changed: 2 engines with fcfs, routed by min-load" in result.stdout
    last = result.stdout.splitlines()[-1].split()
    assert last[:2] == ["all", "200"]
    assert len(last) == 8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--policy", "best"), "best"),
        (("--router", "best"), "best"),
        (("--calibration", "best"), "best"),
        (("--pool", "q"), "no requests of pool q; it has: p"),
    ],
)
def test_what_there_is_not_is_wrong_usage(record: Path, arguments: tuple[str, str], message: str) -> None:
    result = proserve("replay", str(record), *arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_file_that_is_not_there_is_wrong_usage(tmp_path: Path) -> None:
    assert proserve("replay", str(tmp_path / "nowhere")).exit_code == 2


def test_engines_that_told_nothing_need_a_kind(record: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare.jsonl"
    bare.write_bytes(b"\n".join(record.read_bytes().splitlines()[1:]) + b"\n")
    refused = proserve("replay", str(bare))
    assert refused.exit_code == 2
    assert "name their kind with --calibration" in refused.stderr
    found = report(str(bare), "--calibration", "cpu-tiny", "--replicas", "2")
    assert "as_it_was" not in found
    assert found["changed"]["total"]["requests"] == 200
