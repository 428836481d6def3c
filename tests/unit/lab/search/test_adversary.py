"""The search finds what it looks for, repeats itself and goes on where it ended."""

from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace

from proserve_core.batching.registry import PolicyError
from proserve_lab.search import adversary, variation
from proserve_lab.search.adversary import LogError, Try, ranked, search
from proserve_lab.search.cases import CaseError, read_case, write_cases
from proserve_lab.search.regret import Regret, regret
from proserve_lab.search.spec import Class, Lengths, WorkloadSpec

OVERLOAD = WorkloadSpec(
    calibration="h100-llama-3.1-8b",
    requests=60,
    load=2.5,
    cycles=1,
    on_share=1,
    gap_variation=1,
    kinds=(Lengths(share=1, prompt_median=2000, prompt_sigma=0.8, output_median=5, output_sigma=0.3, correlation=0),),
    classes=(Class(share=1, weight=1, ttft_s=0.3, tpot_s=0.05),),
    paired=False,
    first_token_gain=1,
    kv_tokens=460_000,
    max_sequences=256,
)
"""Far more prompts than can be met: whoever takes the short ones first earns more than whoever came first."""


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiny workloads: 40 requests each."""
    monkeypatch.setattr(variation, "MOST_OUTPUT_TOKENS", 1)
    monkeypatch.setattr(adversary, "CONFIRM_SEEDS", (101,))


def test_regret_names_the_best_other_policy_and_what_was_lost() -> None:
    found = regret(OVERLOAD, ours="fcfs", seeds=(1, 2), others=("fcfs", "sarathi", "srpf"))
    assert found is not None
    assert found.best == "srpf"
    assert found.mean == pytest.approx(found.theirs - found.ours)
    assert found.mean > 0.1
    assert sum(found.lost.values()) == pytest.approx(found.mean)


def test_regret_is_not_worked_out_where_it_can_not_be_large() -> None:
    easy = replace(OVERLOAD, load=0.05)
    assert regret(easy, ours="fcfs", seeds=(1,), at_least=0.01) is None


def test_a_policy_ahead_of_all_others_has_a_negative_regret() -> None:
    found = regret(OVERLOAD, ours="srpf", seeds=(1,), others=("fcfs",))
    assert found is not None
    assert found.mean < 0


@pytest.mark.usefixtures("small")
def test_a_search_finds_workloads_on_which_a_weak_policy_loses() -> None:
    found = search(policy="fcfs", rounds=3, seed=0, others=("srpf",))
    assert found
    assert found == ranked(found)
    assert all(item.confirmed is not None for item in found)
    assert search(policy="fcfs", rounds=3, seed=0, others=("srpf",)) == found


@pytest.mark.usefixtures("small")
def test_a_search_goes_on_where_its_log_ends(tmp_path: Path) -> None:
    log = tmp_path / "log"
    search(policy="fcfs", rounds=1, seed=0, others=("srpf",), log=log)
    played: list[int] = []
    continued = search(
        policy="fcfs", rounds=3, seed=0, others=("srpf",), log=log, progress=lambda item: played.append(item.round)
    )
    assert played == [1, 2]
    assert continued == search(policy="fcfs", rounds=3, seed=0, others=("srpf",))
    with pytest.raises(LogError, match="is the log of policy 'fcfs' with seed 0, not of 'edf' with seed 0"):
        search(policy="edf", rounds=3, seed=0, others=("srpf",), log=log)
    log.write_text("no log\n")
    with pytest.raises(LogError, match="not a log of this search"):
        search(policy="fcfs", rounds=3, seed=0, others=("srpf",), log=log)


def test_an_unknown_policy_is_named() -> None:
    with pytest.raises(PolicyError, match="'best'"):
        search(policy="best", rounds=1, seed=0)


def test_cases_are_read_as_they_were_written(tmp_path: Path) -> None:
    confirmed = Regret(mean=0.0123, spread=0.001, best="srpf", ours=0.5, theirs=0.5123, lost={"shed": 0.0123})
    tries = [Try(round=7, spec=OVERLOAD, first=0.02, confirmed=confirmed), Try(round=8, spec=OVERLOAD, first=-1)]
    (path,) = write_cases(tries, policy="fcfs", seed=3, folder=tmp_path / "new")
    assert path.name == "fcfs-3-7.json"
    case = read_case(path)
    assert (case.policy, case.best, case.regret, case.spec) == ("fcfs", "srpf", 0.0123, OVERLOAD)
    path.write_bytes(msgspec.json.encode({"policy": "fcfs"}))
    with pytest.raises(CaseError, match=r"fcfs-3-7\.json: cannot read the case: .*best"):
        read_case(path)
