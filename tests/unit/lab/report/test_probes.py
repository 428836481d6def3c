"""What is looked at beside the gain: Urgent over time, an online latency model on steps that deviate."""

import pytest

from proserve_core.batching.fcfs import Fcfs
from proserve_core.batching.recoverable_gain import RecoverableGain
from proserve_core.batching.slide_batching import SlideBatching
from proserve_core.replica import Replica
from proserve_lab.report.latency_probe import OFF, LatencyProbe
from proserve_lab.report.scenarios import calibration_of, limits_of, requests_of
from proserve_lab.report.urgent_probe import UrgentProbe
from proserve_lab.simulation.run import SimulationRun, simulate

LATENCY = calibration_of("h100").latency


def run(policy: UrgentProbe | LatencyProbe | Fcfs | RecoverableGain | SlideBatching, load: float) -> SimulationRun:
    replica = Replica(policy=policy, policy_name="probed", limits=limits_of("h100"), latency=LATENCY)
    return simulate(requests_of("h100", "azure-conv", load)[:150], replicas=[replica])


def test_urgent_is_rarer_at_low_load_and_the_policy_is_not_disturbed() -> None:
    busy, idle = UrgentProbe(SlideBatching()), UrgentProbe(SlideBatching())
    probed = run(busy, 4.0)
    run(idle, 0.3)
    shares = [[moment.urgent_share for moment in probe.timeline()] for probe in (busy, idle)]
    assert all(0 <= share <= 1 for part in shares for share in part)
    assert max(shares[0]) > 3 * max(shares[1])
    assert probed.ledger.total().tdg_ratio == run(SlideBatching(), 4.0).ledger.total().tdg_ratio


def test_the_latency_model_learns_what_its_start_is_off_by() -> None:
    probe = LatencyProbe(RecoverableGain(), LATENCY)
    probed = run(probe, 2.0)
    decode = probe.corrections()["decode"]
    assert decode.kept.mape == pytest.approx(OFF - 1, abs=1e-6)
    assert decode.learned.mape < decode.kept.mape / 2
    assert probed.ledger.total().tdg_ratio == run(RecoverableGain(), 2.0).ledger.total().tdg_ratio
