"""A real Valkey or Redis server, from Debian's packages, to be stopped in unkind ways."""

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import valkey

from proserve_lab.free_port import free_port

PROGRAMS = ("valkey-server", "redis-server")
"""One protocol; Debian 12 has only the second."""
_PASSWORD = "of-the-store"


def find_program() -> str:
    """The server's path; without one the test is skipped, or fails where everything must run."""
    for name in PROGRAMS:
        if (found := shutil.which(name)) is not None:
            return found
    reason = f"none of {', '.join(PROGRAMS)} is installed: apt-get install redis-server"
    if os.environ.get("PROSERVE_REQUIRE_ENGINE"):
        pytest.fail(reason)
    pytest.skip(reason)


class QuotaServer:
    """Keeps nothing on disk: what is killed has lost its data."""

    def __init__(self, folder: Path, *, host: str = "127.0.0.1") -> None:
        self._program = find_program()
        self._folder = folder
        self._host = host
        self.port = free_port()
        self.url = f"valkey://:{_PASSWORD}@{host}:{self.port}/0"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Returns when it answers."""
        listen = ["--port", str(self.port), "--bind", self._host, "--requirepass", _PASSWORD]
        options = [*listen, "--save", "", "--appendonly", "no"]
        log = self._folder / "store.log"
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [self._program, *options], cwd=self._folder, stdout=output, stderr=subprocess.STDOUT
            )
        end_s = time.monotonic() + 20
        while "ready to accept connections" not in log.read_text(errors="replace").lower():
            if self._process.poll() is not None or time.monotonic() > end_s:
                raise AssertionError(log.read_text(errors="replace"))
            time.sleep(0.01)
        log.write_text("")

    def kill(self) -> None:
        """As a crash of the machine would."""
        self._signal(signal.SIGKILL)
        if self._process is not None:
            self._process.wait()

    def forget(self) -> None:
        """It loses its data and no connection."""
        with valkey.Valkey.from_url(self.url) as client:
            client.flushall()

    def hang(self) -> None:
        """It keeps its connections and says nothing."""
        self._signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)


@contextlib.contextmanager
def quota_server(folder: Path) -> Iterator[QuotaServer]:
    """One that runs, whatever is done to it."""
    server = QuotaServer(folder)
    server.start()
    try:
        yield server
    finally:
        server.go_on()
        server.kill()
