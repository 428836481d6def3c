"""What a policy has learned of lengths outlives the process; a bad file never stops an engine."""

import logging
from pathlib import Path

import pytest

from engine_builders import decoding, engine_state, waiting
from proserve_core.batching.fcfs import Fcfs
from proserve_core.batching.recoverable_gain import RecoverableGain
from proserve_engine.length_file import BUSY_EVERY_S, IDLE_EVERY_S, LengthFile


def learned(outputs: int) -> RecoverableGain:
    policy = RecoverableGain()
    for number in range(outputs):
        policy.ended(decoding(f"r{number}", emitted=10), finished=True)
    return policy


def test_a_new_process_knows_what_the_one_before_it_learned(tmp_path: Path) -> None:
    path = tmp_path / "lengths.json"
    before = RecoverableGain()
    file = LengthFile(path, before, now_s=0.0)
    for number in range(50):
        before.ended(decoding(f"r{number}", emitted=10), finished=True)
    file.save()
    after = RecoverableGain()
    LengthFile(path, after, now_s=0.0)
    assert after.learned() == before.learned()
    after.plan(engine_state(waiting("new", 20)))
    assert list(tmp_path.iterdir()) == [path]


def test_saving_is_rare_and_rarer_while_there_is_work(tmp_path: Path) -> None:
    path = tmp_path / "lengths.json"
    file = LengthFile(path, learned(3), now_s=100.0)
    file.save_if_due(now_s=100.0 + IDLE_EVERY_S - 1, idle=True)
    file.save_if_due(now_s=100.0 + BUSY_EVERY_S - 1, idle=False)
    assert not path.exists()
    file.save_if_due(now_s=100.0 + IDLE_EVERY_S, idle=True)
    assert path.exists()


@pytest.mark.parametrize("content", [b"", b"{", b'{"version": 99}'])
def test_a_damaged_file_is_a_warning_and_an_empty_table(
    tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "lengths.json"
    path.write_bytes(content)
    policy = RecoverableGain()
    logging.getLogger("vllm.proserve").propagate = True
    file = LengthFile(path, policy, now_s=0.0)
    assert "output lengths are learned anew" in caplog.text
    assert policy.learned().tables == []
    file.save()
    LengthFile(path, RecoverableGain(), now_s=0.0)
    assert caplog.text.count("learned anew") == 1


def test_a_folder_that_cannot_be_written_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    LengthFile(tmp_path / "missing" / "lengths.json", learned(1), now_s=0.0).save()
    assert "output lengths are not kept" in caplog.text


def test_a_policy_that_learns_nothing_leaves_the_file_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "lengths.json"
    LengthFile(path, Fcfs(), now_s=0.0).save()
    assert not path.exists()
    assert "learns no output lengths" in caplog.text
