"""Linux namespaces in which all nodes of a Kubernetes cluster run, so that nothing of them can be left behind.

Network, mounts and processes are the nodes' own: their iptables rules, bridges, pod networks and mounts end with them,
and they end when the first process in them does, which waits for the end of the test process. What the nodes' programs
write to fixed places (/run, /var/lib, /var/log) and what kubelet writes to settings of the kernel goes to files of the
namespace. Only control groups are visible outside; `end` removes them.

The host reaches the nodes, their pods and services through one virtual cable. The addresses are from 198.18.0.0/15,
the range that is kept free for tests of networks. The nodes have no way out.
"""

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

HOST_ADDRESS = "198.18.0.254"
NODE_ADDRESS = "198.18.0.1"
SECOND_ADDRESS = "198.18.0.2"
NODE_NETWORK = "198.18.0.0/24"
POD_NETWORK = "198.18.64.0/18"
SERVICE_NETWORK = "198.19.0.0/16"
CABLE = "proserve-test"
KERNEL_SETTINGS = {
    "vm/overcommit_memory": "1",
    "vm/panic_on_oom": "0",
    "kernel/panic": "10",
    "kernel/panic_on_oops": "1",
    "kernel/keys/root_maxkeys": "1000000",
    "kernel/keys/root_maxbytes": "25000000",
}
"""What kubelet insists on. It finds these values, so it changes nothing."""
CONTROL_GROUPS = ("kubepods", "k8s.io", "proserve-node2")
START_LIMIT_S = 120.0

_FIRST_PROCESS = """
import json, os, pathlib, signal, subprocess, sys
folder, settings = pathlib.Path(sys.argv[1]), json.loads(sys.argv[2])
def mount(*arguments):
    subprocess.run(["mount", *arguments], check=True)
mount("--make-rshared", "/")
mount("-t", "tmpfs", "tmpfs", "/run")
for covered in ("lib", "log"):
    upper, work = folder / covered, folder / f"{covered}.work"
    upper.mkdir(), work.mkdir()
    layers = f"lowerdir=/var/{covered},upperdir={upper},workdir={work}"
    mount("-t", "overlay", "overlay", "-o", layers, f"/var/{covered}")
for number, (setting, value) in enumerate(settings.items()):
    if os.path.exists(f"/proc/sys/{setting}"):
        file = folder / f"setting-{number}"
        file.write_text(value + "\\n")
        mount("--bind", str(file), f"/proc/sys/{setting}")
def reap(*_):
    try:
        while os.waitpid(-1, os.WNOHANG) != (0, 0):
            pass
    except ChildProcessError:
        pass
signal.signal(signal.SIGCHLD, reap)
print("ready", flush=True)
sys.stdin.buffer.read()
"""


class NodeNamespace:
    """Made by the constructor, removed by `end` and by the end of this process."""

    def __init__(self, folder: Path) -> None:
        remove_control_groups()
        namespaces = ["--net", "--mount", "--pid", "--uts", "--ipc", "--fork", "--kill-child", "--mount-proc"]
        inside = [sys.executable, "-I", "-c", _FIRST_PROCESS, str(folder), json.dumps(KERNEL_SETTINGS)]
        self._holder = subprocess.Popen(
            ["unshare", *namespaces, *inside], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        try:
            assert self._holder.stdout is not None
            if self._holder.stdout.readline() != "ready\n":
                raise AssertionError("the namespaces of the node could not be made; the reason is above")
            self._first = self._first_process()
            self._lay_cable()
        except BaseException:
            self.end()
            raise

    def _first_process(self) -> int:
        pid = self._holder.pid
        return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])

    def _lay_cable(self) -> None:
        host = ["ip", "link", "add", CABLE, "type", "veth", "peer", "name", "node0", "netns", str(self._first)]
        _run(host)
        _run(["ip", "address", "add", f"{HOST_ADDRESS}/24", "dev", CABLE])
        _run(["ip", "link", "set", CABLE, "up"])
        self.run("ip", "link", "set", "lo", "up")
        for address in (NODE_ADDRESS, SECOND_ADDRESS):
            self.run("ip", "address", "add", f"{address}/24", "dev", "node0")
        self.run("ip", "link", "set", "node0", "up")
        self.run("sysctl", "-qw", "net.ipv4.ip_forward=1")
        for network in (POD_NETWORK, SERVICE_NETWORK):
            _run(["ip", "route", "add", network, "via", NODE_ADDRESS])

    @property
    def enter(self) -> list[str]:
        """What goes before a command to run it in the namespaces."""
        return ["nsenter", f"--target={self._first}", "--net", "--mount", "--pid", "--uts", "--ipc", "--"]

    def run(self, *command: str | Path) -> str:
        """Run a command in the namespaces; what it printed. Fails with its message if it failed."""
        return _run([*self.enter, *(str(part) for part in command)])

    def make_store(self, folder: Path) -> None:
        """A folder in memory, seen in the namespaces only: it is faster to write, and needs no deleting."""
        folder.mkdir()
        self.run("mount", "-t", "tmpfs", "tmpfs", folder)

    def end(self) -> None:
        """Everything in the namespaces is killed by the kernel, and they go."""
        if self._holder.stdin is not None:
            self._holder.stdin.close()
        try:
            self._holder.wait(START_LIMIT_S)
        except subprocess.TimeoutExpired:
            self._holder.kill()
            self._holder.wait()
        if self._holder.stdout is not None:
            self._holder.stdout.close()
        end_s = time.monotonic() + START_LIMIT_S
        while not remove_control_groups() and time.monotonic() < end_s:
            time.sleep(0.1)


def make_control_group(name: str) -> None:
    """In each hierarchy of version 1, or in the one of version 2."""
    top = Path("/sys/fs/cgroup")
    hierarchies = [top] if (top / "cgroup.controllers").exists() else [each for each in top.iterdir() if each.is_dir()]
    for hierarchy in hierarchies:
        (hierarchy / name).mkdir(exist_ok=True)


def remove_control_groups() -> bool:
    """Remove those of pods; whether all are gone. The kernel keeps one while a process in it is ending."""
    roots = [root for name in CONTROL_GROUPS for root in Path("/sys/fs/cgroup").glob(f"{name}")]
    roots += [root for name in CONTROL_GROUPS for root in Path("/sys/fs/cgroup").glob(f"*/{name}")]
    for root in roots:
        for folder in sorted((path for path in root.rglob("*") if path.is_dir()), reverse=True):
            _remove(folder)
        _remove(root)
    return not any(root.exists() for root in roots)


def _remove(folder: Path) -> None:
    try:
        folder.rmdir()
    except OSError:
        # Still in use, or a second name of one that is already gone (cpu and cpuacct).
        return


def _run(command: Sequence[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stdout}{done.stderr}"
    return done.stdout
