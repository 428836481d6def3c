"""A `proserve` command running as a process, found by its output, with everything that it started."""

import os
import re
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Sequence
from pathlib import Path

READY = re.compile(r"ready: OpenAI HTTP (http://\S+?), gRPC (\S+?), metrics and status (http://\S+)")
MARK = "PROSERVE_TEST_RUN"
"""Environment variable by which descendants are found, whatever sessions and groups they are in."""

ENGINE_KEY = {"authorization": "Bearer key-of-the-engines"}
"""Opens engines that were started with `engine_key_file`."""


def engine_key_file(folder: Path) -> str:
    """For `proserve up --engine-key-file`, so that tests may ask engines too."""
    file = folder / "engine.key"
    file.write_text(ENGINE_KEY["authorization"].removeprefix("Bearer "))
    return str(file)


class RunningProserve:
    """Started by the constructor; `stop` or `kill_all` ends it."""

    def __init__(self, arguments: Sequence[str], *, folder: Path, environment: dict[str, str] | None = None) -> None:
        self.mark = uuid.uuid4().hex
        self.log = folder / "proserve.log"
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "proserve_cli", *arguments],
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(environment or {}), MARK: self.mark},
                start_new_session=True,
            )
        self.http = self.grpc = self.admin = ""

    def wait_ready(self, limit_s: float) -> None:
        """Until it says where it listens."""
        end_s = time.monotonic() + limit_s
        while (found := READY.search(self.text)) is None:
            if self.process.poll() is not None or time.monotonic() > end_s:
                self.kill_all()
                raise AssertionError(f"proserve was not ready within {limit_s:g} s:\n{self.text}")
            time.sleep(0.05)
        self.http, self.grpc, self.admin = found.groups()

    @property
    def text(self) -> str:
        """Everything printed so far."""
        return self.log.read_text(encoding="utf-8", errors="replace")

    def descendants(self) -> dict[int, str]:
        """Command lines of the living processes that it started, by pid; itself left out."""
        found = {}
        for folder in Path("/proc").iterdir():
            if not folder.name.isdigit() or int(folder.name) == self.process.pid:
                continue
            try:
                if f"{MARK}={self.mark}".encode() in (folder / "environ").read_bytes():
                    found[int(folder.name)] = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
            except (FileNotFoundError, ProcessLookupError, PermissionError):
                continue
        # A zombie has neither environment nor command line.
        return found

    def stop(self, number: int = signal.SIGINT, limit_s: float = 120.0) -> int:
        """Signal it and wait; its exit code."""
        self.process.send_signal(number)
        return self.process.wait(limit_s)

    def end(self) -> None:
        """Stop it if it still runs, and leave nothing behind, however the test ended."""
        try:
            if self.process.poll() is None:
                self.stop()
        finally:
            self.kill_all()

    def kill_all(self) -> None:
        """Kill it and everything that it started."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for pid in self.descendants():
            os.kill(pid, signal.SIGKILL)
