"""What an engine's metrics say about preemptions and copies of KV blocks."""

from proserve_cli.fidelity_counts import KvCounts, counts_of, label_of, simulated_counts, transfer_of
from proserve_core.batching import EngineLimits
from proserve_core.batching.registry import make_policy
from proserve_core.blocks.settings import CopyBudget, KvOffload, Offload
from proserve_core.blocks.transfer import TRANSFERS
from proserve_core.kv_host import host_of
from proserve_core.latency.calibrations import load_calibration
from proserve_core.replica import Replica

METRICS = """\
# HELP proserve_engine_preemptions_total preemptions
# TYPE proserve_engine_preemptions_total counter
proserve_engine_preemptions_total{cause="plan"} 41.0
proserve_engine_preemptions_total{cause="blocks"} 2.0
proserve_engine_preemptions_created{cause="plan"} 1.7e+09
proserve_engine_kv_copied_blocks_total{direction="offload"} 900.0
proserve_engine_kv_copied_blocks_total{direction="restore"} 310.0
proserve_engine_kv_copy_exposed_seconds_total{direction="offload"} 0.25
proserve_engine_kv_copy_exposed_seconds_total{direction="restore"} 1.5e-02
proserve_engine_kv_recomputed_tokens_total 5234.0
"""


def test_counts_come_from_the_engines_metrics() -> None:
    assert counts_of(METRICS) == KvCounts(
        preemptions=43, restored_blocks=310, recomputed_tokens=5234, waited_s=0.25 + 0.015
    )


def test_copies_are_as_fast_as_the_engines_were() -> None:
    preset = TRANSFERS["NVIDIA H100 SXM 80 GB"]
    metrics = (
        'proserve_engine_kv_copied_bytes_total{direction="offload"} 4e+09\n'
        'proserve_engine_kv_copied_bytes_total{direction="restore"} 0.0\n'
        'proserve_engine_kv_copy_hidden_seconds_total{direction="offload"} 1.5\n'
        'proserve_engine_kv_copy_exposed_seconds_total{direction="offload"} 0.5\n'
    )
    measured = transfer_of(metrics, preset)
    assert measured.offload.byte_s == 0.5e-9
    assert measured.restore == preset.restore


def test_an_engine_that_has_not_preempted_anybody_counts_nothing() -> None:
    assert counts_of("") == KvCounts(preemptions=0, restored_blocks=0, recomputed_tokens=0, waited_s=0.0)


def test_a_simulated_engine_counts_if_it_keeps_blocks() -> None:
    calibration = load_calibration("cpu-tiny")

    def replica(settings: KvOffload | None) -> Replica:
        return Replica(
            policy=make_policy("fcfs"),
            policy_name="fcfs",
            limits=EngineLimits(block_size=32, blocks=64, max_sequences=8, max_step_tokens=256),
            latency=calibration.latency,
            kv_host=host_of(calibration, settings),
        )

    assert simulated_counts(replica(None)) is None
    assert simulated_counts(replica(KvOffload(host_memory="64Mi"))) == counts_of("")


def test_settings_have_short_names() -> None:
    settings = KvOffload(host_memory="64Mi", offload=Offload.ON_PREEMPT, copy_budget=CopyBudget.UNLIMITED)
    assert label_of(settings) == "OnPreempt, Pipelined, Unlimited"
