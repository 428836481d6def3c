"""When `proserve bench kv` says that copies are not to be trusted, and what its table shows."""

from typing import Any

import msgspec

from proserve_engine.bench.kv_figures import Copied, KvFigures, Resumed, Shuffled, Steps, table

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


def test_an_output_that_differs_after_blocks_came_back_is_a_fault() -> None:
    wrong = msgspec.structs.replace(RESUMED, wrong_resumed=1)
    assert figures(resumed=(wrong,)).faults == ["1 outputs differ after blocks came back, 0 after they were recomputed"]
    assert figures(shuffled=Shuffled(requests=8, restores=12, wrong=2)).faults != []


def test_outputs_that_recomputing_changes_as_often_are_the_models_own_near_ties() -> None:
    near_ties = msgspec.structs.replace(RESUMED, wrong_resumed=1, wrong_recomputed=1)
    assert figures(resumed=(near_ties,)).faults == []


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
