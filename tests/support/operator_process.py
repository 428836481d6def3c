"""`proserve operator` as a process beside a real API server."""

import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from api_server import ApiServer
from proserve_lab.free_port import free_port

TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class OperatorProcess:
    """Started by the constructor, looks after one namespace; `running` ends it."""

    def __init__(self, server: ApiServer, folder: Path, name: str, namespace: str, *options: str) -> None:
        self.name = name
        self.admin = free_port()
        self._log = folder / f"{name}.log"
        command = [
            sys.executable, "-m", "proserve_cli", "operator", "--admin", f"127.0.0.1:{self.admin}",
            "--namespace", namespace, "--lease-namespace", namespace, *options,
        ]  # fmt: skip
        environment = {**os.environ, "KUBECONFIG": str(server.kubeconfig), "POD_NAME": name}
        with self._log.open("wb") as output:
            self.process = subprocess.Popen(command, stdout=output, stderr=output, env=environment)

    @property
    def log(self) -> str:
        return self._log.read_text()

    @property
    def cpu_s(self) -> float:
        """User and system time so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS_PER_S

    @property
    def memory_bytes(self) -> int:
        """Resident."""
        return int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    @property
    def answers(self) -> bool:
        """Whether its admin port does; fails when the process has ended."""
        assert self.process.poll() is None, self.log
        try:
            self.samples()
        except OSError:
            return False
        return True

    def samples(self) -> dict[str, float]:
        """Its metrics, by name with labels as they are written."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.admin}/metrics", timeout=120) as reply:
            lines = reply.read().decode().splitlines()
        return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line[0] != "#")}

    def metric(self, name: str) -> float:
        return self.samples()[name]


@contextmanager
def running(*operators: OperatorProcess) -> Iterator[None]:
    try:
        yield
    finally:
        for operator in operators:
            operator.process.kill()
            operator.process.wait()
