"""Whether a machine can have the host memory that it is asked for.

Memory that is not there is not always refused when it is asked for: the kernel hands out more than it has, and ends the
engine when blocks fill it.
"""

import os
from pathlib import Path

from proserve_core.blocks.settings import KvOffload, KvOffloadError

CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")


def check_host_memory(settings: KvOffload) -> None:
    """Refuse more than there is.

    Raises:
        KvOffloadError: says how much there is.
    """
    there = machine_bytes()
    if settings.host_bytes > there:
        raise KvOffloadError(
            f"kvOffload: hostMemory: {settings.host_memory} is more than this machine's {there // 2**20}Mi: give less"
        )


def machine_bytes(cgroup_limit: Path = CGROUP_LIMIT) -> int:
    """Memory that a process here can have: the machine's, or less in a container."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        limit = cgroup_limit.read_text().strip()
    except OSError:
        return total
    return min(total, int(limit)) if limit.isdecimal() else total
