"""Lets a measurement run undisturbed on a machine that others use too, where the system permits it.

Linux shares a core first between sessions (autogroups) and then, by nice value, within each. A process that starts a
session of its own, as engines do, is therefore raised twice.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

NICE = -10


@contextmanager
def preferred() -> Iterator[bool]:
    """Raise this process's priority and its session's while the block runs; yields False where that is not allowed."""
    group = _session_file(os.getpid())
    before = group.read_text().split()[-1] if group.exists() else None
    raised = prefer(os.getpid())
    try:
        yield raised
    finally:
        if raised and before is not None:
            # The process's own priority ends with it, its session may be the user's shell.
            group.write_text(before)


def prefer(pid: int) -> bool:
    """Raise the priority of process `pid`, of its session and of what it starts from now on; False if not allowed."""
    if sys.platform != "linux":
        return False
    try:
        os.setpriority(os.PRIO_PROCESS, pid, NICE)
        group = _session_file(pid)
        if group.exists():
            group.write_text(str(NICE))
    except OSError:
        return False
    return True


def _session_file(pid: int) -> Path:
    return Path(f"/proc/{pid}/autogroup")
