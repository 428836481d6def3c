"""What an engine is told about KV blocks of preempted requests."""

import pytest

from proserve_core.blocks import Reload
from proserve_core.blocks.settings import CopyBudget, KvOffload, KvOffloadError, Offload, kv_offload


def test_host_memory_alone_switches_everything_on() -> None:
    settings = kv_offload('{"hostMemory": "4Gi"}')
    assert (settings.host_bytes, settings.offload, settings.reload, settings.copy_budget) == (
        4 * 2**30, Offload.ASYNC, Reload.PIPELINED, CopyBudget.ADAPTIVE,
    )  # fmt: skip


def test_each_part_is_set_by_itself_and_reads_back() -> None:
    written = {
        "hostMemory": "1500M", "offload": "OnPreempt", "reload": "Blocking", "copyBudget": "Fixed", "copyBlocks": 8,
    }  # fmt: skip
    settings = kv_offload(written)
    assert settings == KvOffload(
        host_memory="1500M",
        offload=Offload.ON_PREEMPT,
        reload=Reload.BLOCKING,
        copy_budget=CopyBudget.FIXED,
        copy_blocks=8,
    )
    assert settings.host_bytes == 1_500_000_000
    assert settings.to_mapping() == written


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("{}", "hostMemory"),
        ('{"hostMemory": "lots"}', "hostMemory: write a quantity such as '512Mi' or '4Gi', got 'lots'"),
        ('{"hostMemory": "0"}', "hostMemory"),
        ('{"hostMemory": "1Gi", "offload": "Sometimes"}', "Sometimes"),
        (
            '{"hostMemory": "1Gi", "copyBudget": "Fixed", "copyBlocks": 0}',
            "copyBlocks: must be at least 1, got 0",
        ),
        (
            '{"hostMemory": "1Gi", "copyBlocks": 64}',
            "copyBlocks has no effect without copyBudget Fixed; set that, or remove it",
        ),
        ('{"hostMemory": "1Gi", "reloads": "Blocking"}', "reloads"),
        ("4Gi", "write a JSON object"),
    ],
)
def test_wrong_settings_name_the_field(written: str, message: str) -> None:
    with pytest.raises(KvOffloadError, match="kvOffload") as caught:
        kv_offload(written)
    assert message in str(caught.value)
