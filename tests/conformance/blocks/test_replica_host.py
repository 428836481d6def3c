"""Replicas with host memory under all policies: the audit of work and blocks finds nothing, whatever is switched on."""

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batching_states import terms_strategy
from engine_builders import H100_LLAMA_8B, service_terms
from proserve_core.batching import EngineLimits
from proserve_core.batching.registry import POLICIES, make_policy
from proserve_core.blocks import KvLayout, LinkModel, Reload, TransferModel
from proserve_core.blocks.settings import CopyBudget, KvOffload, Offload
from proserve_core.kv_host import KvHost
from proserve_core.objectives import ServiceTerms
from proserve_core.replica import Replica, StartedStep
from proserve_lab.simulation.run import SimulationRun, simulate
from proserve_lab.simulation.workload import SimulatedRequest

LAYOUT = KvLayout(layers=4, kv_heads=1, head_dim=64)
BLOCK_BYTES = LAYOUT.block_bytes(16)
EVERYTHING = list(product(Offload, Reload, CopyBudget))


class Checked(Replica):
    """Looks at its ledger in every step."""

    def begin_step(self, now_s: float) -> StartedStep | None:
        step = super().begin_step(now_s)
        if self.host is not None:
            self.host.ledger.check()
            assert self.host.ledger.free_device == self.free_blocks
        return step


def host(
    *, blocks: int, block_s: float = 1e-3, offload: Offload = Offload.ASYNC, reload: Reload = Reload.PIPELINED,
    budget: CopyBudget = CopyBudget.ADAPTIVE,
) -> KvHost:  # fmt: skip
    link = LinkModel(call_s=1e-5, byte_s=block_s / BLOCK_BYTES)
    return KvHost(
        settings=KvOffload(
            host_memory=str(blocks * BLOCK_BYTES), offload=offload, reload=reload, copy_budget=budget, copy_blocks=3
        ),
        transfer=TransferModel(offload=link, restore=link, both_busy=1.2),
        layout=LAYOUT,
    )


def run(
    policy: str, workload: list[tuple[float, int, int, ServiceTerms]], limits: EngineLimits, kv_host: KvHost | None
) -> SimulationRun:
    now_s = 0.0
    requests: list[SimulatedRequest] = []
    for number, (gap_s, prompt, output, terms) in enumerate(workload):
        now_s += gap_s
        requests.append(
            SimulatedRequest(id=f"r{number}", terms=terms, arrival_s=now_s, prompt_tokens=prompt, output_tokens=output)
        )
    replica = Checked(
        policy=make_policy(policy), policy_name=policy, limits=limits, latency=H100_LLAMA_8B, kv_host=kv_host
    )
    return simulate(requests, replicas=[replica])


@pytest.mark.parametrize("policy", sorted(POLICIES))
@settings(max_examples=25, deadline=None)
@given(
    workload=st.lists(
        st.tuples(st.floats(0.0, 0.2), st.integers(1, 100), st.integers(1, 60), terms_strategy),
        min_size=1,
        max_size=25,
    ),
    blocks=st.integers(10, 40),
    host_blocks=st.integers(1, 60),
    block_s=st.sampled_from([1e-5, 1e-3, 1e-2]),
    max_step_tokens=st.sampled_from([20, 512]),
    switches=st.sampled_from(EVERYTHING),
)
def test_no_token_and_no_block_is_lost_or_invented(
    policy: str,
    workload: list[tuple[float, int, int, ServiceTerms]],
    blocks: int,
    host_blocks: int,
    block_s: float,
    max_step_tokens: int,
    switches: tuple[Offload, Reload, CopyBudget],
) -> None:
    offload, reload, budget = switches
    limits = EngineLimits(block_size=16, blocks=blocks, max_sequences=8, max_step_tokens=max_step_tokens)
    kv_host = host(blocks=host_blocks, block_s=block_s, offload=offload, reload=reload, budget=budget)
    result = run(policy, workload, limits, kv_host)
    totals = result.hosts[0].totals
    assert sum(len(outcome.emitted_s) for outcome in result.outcomes) == sum(output for _, _, output, _ in workload)
    if offload is Offload.OFF:
        assert (totals.offloaded_blocks, totals.restored_blocks) == (0, 0)


def test_who_comes_back_computing_everything_keeps_what_the_host_has_of_it() -> None:
    impatient, heavy = service_terms(ttft_s=0.1, tpot_s=0.01), service_terms(10.0, ttft_s=0.1, tpot_s=1.0)
    workload = [(0.0, 48, 52, impatient), (0.0, 1, 1, impatient), (0.0, 81, 11, impatient), (0.0, 100, 15, heavy),
                (0.0, 85, 14, heavy)]  # fmt: skip
    limits = EngineLimits(block_size=16, blocks=21, max_sequences=8, max_step_tokens=20)
    kv_host = host(blocks=8, block_s=1e-5, offload=Offload.ON_PREEMPT)
    result = run("slide-batching", workload, limits, kv_host)
    assert sum(len(outcome.emitted_s) for outcome in result.outcomes) == 93
    assert result.hosts[0].totals.offloaded_blocks > 0


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_host_memory_that_is_never_used_changes_no_decision(policy: str) -> None:
    limits = EngineLimits(block_size=16, blocks=40, max_sequences=8, max_step_tokens=512)
    workload = [(0.01, 90, 60, service_terms())] * 20
    without = run(policy, workload, limits, None)
    unused = run(policy, workload, limits, host(blocks=10, offload=Offload.OFF))
    assert [o.emitted_s for o in unused.outcomes] == [o.emitted_s for o in without.outcomes]
