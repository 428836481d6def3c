"""`proserve simulate`: figures as JSON for scripts."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from proserve_cli.main import app

BASE = ["simulate", "--calibration", "h100-llama-3.1-8b", "--policy", "fcfs"]


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    path = tmp_path / "trace.csv"
    lines = [f"{number * 0.5},{100 + number},{5 + number % 3}" for number in range(30)]
    path.write_text("arrival_s,prompt_tokens,output_tokens\n" + "\n".join(lines) + "\n")
    return path


def test_json_has_the_fields_of_the_contract(trace: Path, tmp_path: Path) -> None:
    log = tmp_path / "tokens.jsonl"
    options = ["--trace", str(trace), "--rate", "8", "--limit", "20", "--format", "json", "--token-log", str(log)]
    done = CliRunner().invoke(app, [*BASE, *options])
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    assert list(result) == [
        "policy", "router", "replicas", "rate", "requests", "tdg_ratio", "slo_attainment", "classes", "steps",
        "preemptions", "plan_us", "simulated_s", "wall_s",
    ]  # fmt: skip
    assert result["requests"] == 20
    assert result["rate"] == pytest.approx(8)
    assert set(result["classes"]) == {"high", "low"}
    records = [json.loads(line) for line in log.read_text().splitlines()]
    assert [len(record["emitted"]) for record in records] == [record["output_tokens"] for record in records]
    assert set(records[0]) == {
        "id", "class", "weight", "arrival", "prompt_tokens", "output_tokens", "ttft_s", "tpot_s", "emitted",
    }  # fmt: skip


def test_several_replicas_are_routed(trace: Path) -> None:
    options = ["--trace", str(trace), "--replicas", "3", "--router", "go-routing", "--format", "json"]
    done = CliRunner().invoke(app, [*BASE, *options])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["replicas"] == 3


def test_class_file_sets_the_mix(trace: Path, tmp_path: Path) -> None:
    classes = tmp_path / "classes.yaml"
    classes.write_text(
        "apiVersion: proserve.dev/v1alpha1\nkind: PriorityClass\nmetadata: {name: only}\n"
        "spec: {weight: 3, objectives: {timeToFirstToken: 2s, timePerOutputToken: 80ms}}\n"
    )
    options = ["--trace", str(trace), "--classes", str(classes), "--format", "json"]
    done = CliRunner().invoke(app, [*BASE, *options])
    assert done.exit_code == 0, done.output
    assert list(json.loads(done.stdout)["classes"]) == ["only"]


def test_blocks_on_the_host_are_a_key_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_text("arrival_s,prompt_tokens,output_tokens\n" + "".join(f"{n * 0.01},300,80\n" for n in range(30)))
    options = ["--trace", str(path), "--kv-blocks", "120", "--format", "json"]
    host = ["--kv-offload", '{"hostMemory": "2Gi", "copyBudget": "Unlimited"}']
    without = json.loads(CliRunner().invoke(app, [*BASE, *options]).stdout)
    kept = json.loads(CliRunner().invoke(app, [*BASE, *options, *host]).stdout)
    assert "kv" not in without
    assert kept["preemptions"] > 0
    assert set(kept["kv"]) == {
        "host_blocks", "offloaded_blocks", "restored_blocks", "copied_bytes", "hidden_s", "exposed_s", "restores",
        "recomputed_tokens", "evicted_blocks",
    }  # fmt: skip
    assert kept["kv"]["host_blocks"] == 1024
    assert kept["kv"]["restored_blocks"] > 0


def test_wrong_host_settings_are_named(trace: Path) -> None:
    done = CliRunner().invoke(app, [*BASE, "--trace", str(trace), "--kv-offload", '{"hostMemory": "1Mi"}'])
    assert done.exit_code == 2
    assert "hostMemory: 1Mi is less than one KV block of 2097152 bytes" in " ".join(done.output.split())


def test_a_waiting_room_is_driven_for_one_replica_too(trace: Path) -> None:
    options = ["--trace", str(trace), "--router", "late-gain", "--gateways", "2", "--staleness-ms", "100"]
    done = CliRunner().invoke(app, [*BASE, *options, "--format", "json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["router"] == "late-gain"
    assert json.loads(done.stdout)["tdg_ratio"] > 0


def test_prefix_cache_needs_a_trace_that_tells_how_prompts_begin(trace: Path, tmp_path: Path) -> None:
    refused = CliRunner().invoke(app, [*BASE, "--trace", str(trace), "--prefix-cache"])
    assert refused.exit_code == 2
    assert "--prefix-cache" in refused.output
    alike = tmp_path / "alike.csv"
    alike.write_text(
        "arrival_s,prompt_tokens,output_tokens,prefix_hash_ids\n" + "".join(f"{n},3000,5,1 2 3\n" for n in range(4))
    )
    done = CliRunner().invoke(app, [*BASE, "--trace", str(alike), "--prefix-cache", "--format", "json"])
    assert done.exit_code == 0, done.output
