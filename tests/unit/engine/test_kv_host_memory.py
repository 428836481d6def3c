"""Host memory that a machine does not have is refused at the start."""

from pathlib import Path

import pytest

from proserve_core.blocks.settings import KvOffload, KvOffloadError
from proserve_engine.kv import host_memory


def test_more_than_there_is_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_memory, "machine_bytes", lambda: 8 * 2**30)
    host_memory.check_host_memory(KvOffload(host_memory="8Gi"))
    with pytest.raises(KvOffloadError, match="hostMemory: 9Gi is more than this machine's 8192Mi: give less"):
        host_memory.check_host_memory(KvOffload(host_memory="9Gi"))


def test_a_containers_limit_counts(tmp_path: Path) -> None:
    everything = host_memory.machine_bytes(tmp_path / "none")
    limit = tmp_path / "memory.max"
    limit.write_text("max\n")
    assert host_memory.machine_bytes(limit) == everything
    limit.write_text("1048576\n")
    assert host_memory.machine_bytes(limit) == 2**20
