"""When `proserve bench kv` says that copies are not to be trusted, and what its table shows."""

from typing import Any

import msgspec
import pytest

from proserve_engine.bench.kv_figures import Copied, KvFigures, Reloaded, Resumed, Shuffled, Steps, reload_table, table

RESUMED = Resumed(
    context=1024,
    runs=3,
    resume_s=0.02,
    recompute_s=0.1,
    copied_out_s=0.002,
    copied_back_s=0.003,
    waited_s=0.001,
    restored_blocks=32,
    wrong_resumed=0,
    wrong_recomputed=0,
)


def figures(**changes: Any) -> KvFigures:
    good = KvFigures(
        device="cpu",
        model="generated://small",
        vllm="0.32.0",
        block_size=32,
        block_bytes=393216,
        resumed=(RESUMED,),
        copied=(Copied(blocks=8, size=1, to_host=2e9, to_host_raw=4e9, to_device=1e9, to_device_raw=4e9),),
        steps=Steps(pairs=20, requests=8, copied_blocks=4, plain_s=0.01, copying_s=0.0102, ratio=1.02),
        shuffled=Shuffled(requests=8, restores=12, wrong=0),
        control_differs=True,
    )
    return msgspec.structs.replace(good, **changes)


def test_equal_outputs_and_a_control_that_differs_are_no_fault() -> None:
    assert figures().faults == []
    assert table(figures()).endswith("all outputs as they should be")


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        (
            {"resumed": (msgspec.structs.replace(RESUMED, wrong_resumed=1),)},
            "1 of 3 outputs differ from the uninterrupted run's after 1024 tokens came back",
        ),
        (
            {"resumed": (msgspec.structs.replace(RESUMED, wrong_recomputed=2),)},
            "2 of 3 outputs differ from the uninterrupted run's after 1024 tokens were computed again",
        ),
        (
            {"shuffled": Shuffled(requests=8, restores=12, wrong=2)},
            "2 of 8 outputs differ after random preemptions",
        ),
    ],
)
def test_any_output_that_differs_is_a_fault(changes: dict[str, Any], fault: str) -> None:
    assert figures(**changes).faults == [fault]


def test_a_check_that_could_not_fail_is_a_fault() -> None:
    assert len(figures(control_differs=False).faults) == 1
    assert len(figures(shuffled=Shuffled(requests=8, restores=0, wrong=0)).faults) == 1
    assert len(figures(resumed=(msgspec.structs.replace(RESUMED, restored_blocks=0),)).faults) == 1


def test_the_table_has_each_figure_next_to_its_target() -> None:
    lines = table(figures()).splitlines()
    assert any("1,024 tokens" in line and "5.0x" in line for line in lines)
    assert any("8 blocks" in line and "50%" in line and "25%" in line for line in lines)
    assert any("ratio 1.020" in line and "target <= 1.03 (met)" in line for line in lines)
    slow = msgspec.structs.replace(figures().steps, ratio=1.2)
    assert "(missed)" in table(figures(steps=slow))


@pytest.mark.parametrize(
    ("pipelined_s", "verdict"), [(0.105, "5.0%, target 10% (met)"), (0.15, "50.0%, target 10% (missed)")]
)
def test_a_pipelined_step_is_held_against_the_longer_of_copies_and_compute(pipelined_s: float, verdict: str) -> None:
    row = Reloaded(
        layers=2, blocks=15, tokens=256, copies_s=0.02, compute_s=0.1, pipelined_s=pipelined_s, blocking_s=0.12,
        waits_s=(0.01, 0.002),
    )  # fmt: skip
    assert reload_table([row]).splitlines()[-1] == f"beyond the longer one at most {verdict}"
