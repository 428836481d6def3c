"""`proserve up` with a pool that keeps KV blocks of preempted requests: answers stay the same, and counters say why."""

import json
import re
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any

import httpx
import pytest
import yaml

from running_proserve import ENGINE_KEY, RunningProserve, engine_key_file

EXAMPLE = Path(__file__).parents[2] / "examples" / "quickstart.yaml"
ANY_PORTS = ("--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0", "--admin", "127.0.0.1:0")
HEAVY, LIGHT = "sk-demo-interactive", "sk-demo-batch"


def short_of_blocks(folder: Path) -> Path:
    """The example with one engine, whose KV cache holds two or three of the requests below."""
    documents = list(yaml.safe_load_all(EXAMPLE.read_text()))
    pool = next(each for each in documents if each["kind"] == "EnginePool")["spec"]
    pool["replicas"] = 1
    pool["model"]["maxModelLength"] = 512
    pool["engine"] |= {
        "args": ["--num-gpu-blocks-override=25"],
        "scheduler": {"policy": "priority"},
        "kvOffload": {"hostMemory": "64Mi", "offload": "OnPreempt", "copyBudget": "Unlimited"},
    }
    file = folder / "short.yaml"
    file.write_text(yaml.safe_dump_all(documents))
    return file


def complete(running: RunningProserve, key: str, *numbers: int, begun: Event | None = None) -> list[str]:
    """Answers to one request's prompts, which the engine has all at once; `begun` is set at the first token."""
    body = {
        "model": "tiny", "prompt": [f"{number} " + "once upon a time " * (4 + number) for number in numbers],
        "max_tokens": 150, "temperature": 0, "ignore_eos": True, "stream": True,
    }  # fmt: skip
    headers = {"authorization": f"Bearer {key}"}
    answers = [""] * len(numbers)
    with httpx.stream("POST", f"{running.http}/v1/completions", json=body, headers=headers, timeout=300) as reply:
        assert reply.status_code == 200, reply.read()
        for line in reply.iter_lines():
            if line.startswith("data: {"):
                for choice in json.loads(line.removeprefix("data: "))["choices"]:
                    answers[choice["index"]] += choice["text"]
                if begun is not None:
                    begun.set()
    return answers


def engine_of(running: RunningProserve) -> Any:
    """What the gateway knows of the first engine."""
    return httpx.get(f"{running.admin}/status", timeout=120).json()["engines"][0]


def kv_counters(running: RunningProserve) -> Mapping[str, float]:
    """`proserve_engine_kv_*` of the first engine."""
    text = httpx.get(f"{engine_of(running)['capacity_url']}/metrics", headers=ENGINE_KEY, timeout=120).text
    return {name: float(value) for name, value in re.findall(r"^proserve_engine_kv_(\S+) (\S+)$", text, re.MULTILINE)}


@pytest.fixture(scope="module")
def real(engine_python: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningProserve]:
    folder = tmp_path_factory.mktemp("kv")
    running = RunningProserve(
        [
            "up",
            "-f",
            str(short_of_blocks(folder)),
            "--engine",
            "vllm",
            "--engine-key-file",
            engine_key_file(folder),
            *ANY_PORTS,
        ],
        folder=folder,
        environment={"PROSERVE_ENGINE_PYTHON": engine_python},
    )
    try:
        running.wait_ready(1500)
        yield running
    finally:
        running.end()


@pytest.mark.engine
def test_answers_through_preemption_and_restore_are_those_of_requests_alone(real: RunningProserve) -> None:
    alone = [complete(real, LIGHT, number)[0] for number in range(8)]
    assert kv_counters(real)["restores_total"] == 0
    begun = Event()
    with ThreadPoolExecutor(1) as client:
        # Each takes 11 or 12 of the 25 blocks, so some are preempted whatever the others do.
        light = client.submit(complete, real, LIGHT, 0, 1, 2, 3, begun=begun)
        assert begun.wait(300), "the engine does not run them"
        heavy = complete(real, HEAVY, 4, 5, 6, 7)
        together = light.result() + heavy
    assert together == alone
    counters = kv_counters(real)
    assert counters["restores_total"] > 0
    assert counters['copied_blocks_total{direction="offload"}'] > 0
    assert counters['copied_blocks_total{direction="restore"}'] > 0
    assert counters['copy_failures_total{direction="restore"}'] == 0


def test_an_emulated_engine_has_the_host_memory_of_its_pool(shared: RunningProserve) -> None:
    counters = kv_counters(shared)
    assert counters["free_host_blocks"] > 100
    assert counters["restores_total"] == 0
