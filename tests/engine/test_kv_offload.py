"""Greedy outputs of a real model stay the same when blocks of preempted requests go to the host and come back.

The model's output depends on its KV cache (`test_token_identity` proves it, and so does the negative control here), so
a block that was copied wrongly, too late or not at all would show.
"""

import pytest

pytest.importorskip("vllm", reason="the engine environment is missing: make engine")

import random
import threading
from typing import Any

from vllm.v1.core.sched.scheduler import Scheduler

from bad_link import bring_back_empty, spoil
from engine_policies import RandomPolicy
from proserve_core.blocks import Reload
from proserve_core.blocks.settings import CopyBudget, KvOffload, Offload
from proserve_engine.kv.cpu_copier import CpuCopier
from proserve_engine.vllm.scheduler import ProServeAsyncScheduler, ProServeScheduler
from real_engine import RealEngine, kv_settings

LIMIT_S = 300
"""Of waits that end at once unless something is broken."""
FEW_BLOCKS = 24
"""Two or three of the requests below fit at a time."""

ON_PREEMPT = kv_settings(offload=Offload.ON_PREEMPT, reload=Reload.BLOCKING, copy_budget=CopyBudget.UNLIMITED)


@pytest.fixture(scope="module")
def requests() -> list[tuple[list[int], int]]:
    draw = random.Random(11)
    return [
        ([draw.randrange(300, 1000) for _ in range(draw.randrange(40, 260))], 40 + 7 * number) for number in range(7)
    ]


@pytest.fixture(scope="module")
def uninterrupted(real_engine: RealEngine, requests: list[tuple[list[int], int]]) -> list[list[int]]:
    """Each request alone on plain vLLM with plenty of blocks."""
    real_engine.use(Scheduler)
    return [real_engine.generate([request], facts=False)[0] for request in requests]


@pytest.fixture(autouse=True)
def _policy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROSERVE_POLICY", "priority")


def count(scheduler: Any, name: str, **labels: str) -> float:
    return float(scheduler._proserve.metrics.registry.get_sample_value(f"proserve_engine_kv_{name}", labels))


@pytest.mark.parametrize(
    ("scheduler", "settings"),
    [
        pytest.param(ProServeScheduler, ON_PREEMPT, id="on-preempt"),
        pytest.param(ProServeAsyncScheduler, kv_settings(copy_budget=CopyBudget.UNLIMITED), id="ahead-pipelined"),
        pytest.param(
            ProServeScheduler,
            kv_settings(offload=Offload.ON_PREEMPT, copy_budget=CopyBudget.FIXED, copy_blocks=3),
            id="in-part",
        ),
        pytest.param(ProServeAsyncScheduler, kv_settings(12), id="host-full-adaptive"),
    ],
)
def test_outputs_survive_preemption_and_restore(
    real_engine: RealEngine,
    requests: list[tuple[list[int], int]],
    uninterrupted: list[list[int]],
    scheduler: type,
    settings: KvOffload,
) -> None:
    in_charge = real_engine.use(scheduler, blocks=FEW_BLOCKS, policy=RandomPolicy(0), prefix_caching=False, kv=settings)
    assert real_engine.generate(requests, facts=True) == uninterrupted
    assert count(in_charge, "restores_total") > 3
    assert count(in_charge, "copied_blocks_total", direction="restore") > 3
    assert count(in_charge, "copy_failures_total", direction="restore") == 0


@pytest.mark.parametrize(
    "settings", [ON_PREEMPT, kv_settings(copy_budget=CopyBudget.UNLIMITED)], ids=["flush", "ahead"]
)
@pytest.mark.usefixtures("gpus_copier")
def test_outputs_survive_a_gpus_copier_whose_streams_take_their_time(
    real_engine: RealEngine,
    requests: list[tuple[list[int], int]],
    uninterrupted: list[list[int]],
    settings: KvOffload,
) -> None:
    in_charge = real_engine.use(
        ProServeScheduler, blocks=FEW_BLOCKS, policy=RandomPolicy(0), prefix_caching=False, kv=settings
    )
    assert real_engine.generate(requests, facts=True) == uninterrupted
    assert count(in_charge, "restores_total") > 3
    assert count(in_charge, "copy_failures_total", direction="restore") == 0
    real_engine.finish_copies()


def test_blocks_that_come_back_empty_change_the_output(
    real_engine: RealEngine,
    requests: list[tuple[list[int], int]],
    uninterrupted: list[list[int]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    emptied = bring_back_empty(real_engine.copier, monkeypatch)
    real_engine.use(ProServeScheduler, blocks=FEW_BLOCKS, policy=RandomPolicy(0), prefix_caching=False, kv=ON_PREEMPT)
    assert real_engine.generate(requests, facts=True) != uninterrupted
    assert sum(emptied) > 0


def test_damaged_and_failed_copies_end_in_recompute(
    real_engine: RealEngine,
    requests: list[tuple[list[int], int]],
    uninterrupted: list[list[int]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spoil(real_engine.copier, monkeypatch, random.Random(0), 0.4)
    in_charge = real_engine.use(ProServeScheduler, blocks=FEW_BLOCKS, policy=RandomPolicy(0), kv=ON_PREEMPT)
    assert real_engine.generate(requests, facts=True) == uninterrupted
    assert count(in_charge, "copy_failures_total", direction="restore") > 1
    assert count(in_charge, "copied_blocks_total", direction="restore") > 1


def test_a_layer_computes_while_the_next_one_arrives(
    real_engine: RealEngine,
    requests: list[tuple[list[int], int]],
    uninterrupted: list[list[int]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    copier, connector = real_engine.copier, real_engine.connector
    if not isinstance(copier, CpuCopier):
        pytest.skip("test_kv_cuda_copier shows this of a GPU's copier")
    copy_in, overlapped = copier.copy_in, 0
    first_layer_done = threading.Event()

    def after_the_first_layer(number: int, device: Any, host: Any) -> Any:
        nonlocal overlapped
        if number == 0:
            first_layer_done.clear()
        else:
            overlapped += first_layer_done.wait(LIMIT_S)
        return copy_in(number, device, host)

    monkeypatch.setattr(copier, "copy_in", after_the_first_layer)
    # vLLM calls this behind each layer's attention.
    monkeypatch.setattr(connector, "save_kv_layer", lambda *_: first_layer_done.set())
    settings = kv_settings(offload=Offload.ON_PREEMPT, copy_budget=CopyBudget.UNLIMITED)
    in_charge = real_engine.use(
        ProServeScheduler, blocks=FEW_BLOCKS, policy=RandomPolicy(1), prefix_caching=False, kv=settings
    )
    assert real_engine.generate(requests, facts=True) == uninterrupted
    assert count(in_charge, "restores_total") >= overlapped > 0
