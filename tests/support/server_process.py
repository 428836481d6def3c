"""A server of somebody else's that a test runs: its output in a file, ended by its pid."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path


class ServerProcess:
    """Started by the constructor; `stop` or `kill` ends it, whatever state it is in."""

    def __init__(self, command: Sequence[str | Path], *, log: Path, enter: Sequence[str] = ()) -> None:
        """`enter` is a command that runs the other one as its child, such as nsenter; signals go to the child."""
        self.name = Path(command[0]).name
        self.log = log
        self._entered = bool(enter)
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [*enter, *(str(part) for part in command)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def wait_until(self, ready: Callable[[], bool], *, limit_s: float, what: str) -> None:
        """Until `ready`; fails with the end of the log when the process dies or the time is over."""
        end_s = time.monotonic() + limit_s
        while not ready():
            if not self.running:
                raise AssertionError(f"{self.name} ended while waiting for {what}:\n{self.last_lines()}")
            if time.monotonic() > end_s:
                raise AssertionError(f"{self.name}: no {what} within {limit_s:g} s:\n{self.last_lines()}")
            time.sleep(0.05)

    def last_lines(self, count: int = 15) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-count:])

    def pause(self) -> None:
        """Answers nothing more, keeps its connections."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)
        # nsenter stops together with its child.
        self._process.send_signal(signal.SIGCONT)

    def stop(self, limit_s: float = 10.0) -> None:
        """Ask it to end, and kill it if it does not within the limit."""
        self._signal(signal.SIGTERM)
        try:
            self._process.wait(limit_s)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        self._signal(signal.SIGKILL)
        self._process.kill()
        self._process.wait()

    def _signal(self, number: int) -> None:
        if not self.running:
            return
        pid = self._process.pid
        targets = [pid]
        if self._entered:
            targets = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        for target in targets:
            os.kill(target, number)
