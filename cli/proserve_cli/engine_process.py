"""One engine as a child process: its own process group, its log in a file, and an end that leaves nothing behind."""

import asyncio
import ctypes
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

logger = logging.getLogger(__name__)

STOP_GRACE_S = 10.0
KILL_GRACE_S = 5.0
"""A killed group that is still there after this is stuck in the kernel or has no parent that collects it."""
GROUP_POLL_S = 0.05

_libc = ctypes.CDLL(None) if sys.platform == "linux" else None
_PR_SET_PDEATHSIG = 1


class EngineProcess:
    """A process and everything it starts.

    The group is the child's own: Ctrl-C in the terminal reaches only us, and we decide when engines end. On Linux the
    kernel ends the child when we are killed before we can.
    """

    def __init__(self, process: asyncio.subprocess.Process, log: Path, sockets: str) -> None:
        self._process = process
        self._log = log
        self._sockets = sockets
        self._gone = False

    @classmethod
    async def start(cls, command: Sequence[str], *, environment: Mapping[str, str], log: Path) -> "EngineProcess":
        """Start `command`; stdout and stderr are appended to `log`.

        Raises:
            OSError: the program can't be started.
        """
        # vLLM's processes talk over sockets that they never remove. The path of one may have 107 bytes.
        sockets = tempfile.mkdtemp(prefix="proserve-")
        try:
            with log.open("ab") as output:
                process = await asyncio.create_subprocess_exec(
                    *command,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env={"VLLM_RPC_BASE_PATH": sockets, **environment},
                    start_new_session=True,
                    preexec_fn=_end_with_parent,
                )
        except OSError:
            shutil.rmtree(sockets)
            raise
        return cls(process, log, sockets)

    @property
    def pid(self) -> int:
        return self._process.pid

    async def wait(self) -> int:
        """Exit code of the engine, negative for a signal. Its children may still run: `stop` ends them."""
        return await self._process.wait()

    async def stop(self, grace_s: float = STOP_GRACE_S) -> None:
        """End the whole group: TERM, and KILL for what is left after `grace_s`. Returns when nothing is left."""
        for number, limit_s in ((signal.SIGTERM, grace_s), (signal.SIGKILL, KILL_GRACE_S)):
            if await self._ended(number, limit_s):
                shutil.rmtree(self._sockets, ignore_errors=True)
                return
        logger.error("process group %d is still there after SIGKILL", self.pid)

    def log_tail(self, lines: int = 15) -> str:
        """The last lines of the log."""
        text = self._log.read_text(encoding="utf-8", errors="replace")
        return "\n".join(text.splitlines()[-lines:])

    async def _ended(self, number: signal.Signals, limit_s: float) -> bool:
        """Send `number` to the group and wait until it is empty; False if it is not within `limit_s`."""
        # Once empty, the group's number may belong to somebody else.
        if self._gone or not _signal_group(self.pid, number):
            self._gone = True
            return True
        try:
            async with asyncio.timeout(limit_s):
                await self._process.wait()
                while _signal_group(self.pid, 0):  # noqa: ASYNC110 - nothing announces that a group is empty
                    await asyncio.sleep(GROUP_POLL_S)
        except TimeoutError:
            return False
        self._gone = True
        return True


def _end_with_parent() -> None:
    """In the child, before it becomes the engine."""
    if _libc is not None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _signal_group(group: int, number: int) -> bool:
    """Send `number` (0: nothing) to the process group; False if there is no such group."""
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return False
    return True
