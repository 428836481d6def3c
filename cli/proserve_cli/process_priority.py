"""Lets a measurement run undisturbed on a machine that others use too, where the system permits it.

Linux shares a core first between sessions (autogroups) and then, by nice value, within each. A process that starts a
session of its own, as engines do, is therefore raised twice.
"""

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

NICE = -10


@contextmanager
def preferred() -> Iterator[bool]:
    """Raise this process's priority and its session's while the block runs; yields False where that is not allowed."""
    group = session_file(os.getpid())
    before = session_nice(group)
    raised = prefer(os.getpid())
    try:
        yield raised
    finally:
        if raised and before is not None:
            # The process's own priority ends with it, its session may be the user's shell.
            group.write_text(str(before))


def prefer(pid: int) -> bool:
    """Raise the priority of process `pid`, of its session and of what it starts from now on; False if not allowed."""
    if sys.platform != "linux":
        return False
    try:
        os.setpriority(os.PRIO_PROCESS, pid, NICE)
        group = session_file(pid)
        if session_nice(group) is not None:
            group.write_text(str(NICE))
    except OSError:
        return False
    return True


def session_file(pid: int) -> Path:
    """Where Linux keeps the nice value of the session of process `pid` (man 7 sched, autogroup)."""
    return Path(f"/proc/{pid}/autogroup")


def session_nice(file: Path) -> int | None:
    """The session's nice value, or None where sessions have none: no such file, or one without content.

    A kernel built without autogroups has no file; one that has them switched off, or a sandbox, shows an empty one.
    """
    try:
        match = re.fullmatch(r"/autogroup-\d+ nice (-?\d+)\s*", file.read_text())
    except OSError:
        return None
    return int(match[1]) if match else None
