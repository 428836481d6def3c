"""kubectl and helm for one cluster."""

import json
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


class KubernetesAccess:
    """Runs the clients with a kubeconfig and a home of their own, so that nothing of the user's is read or written."""

    def __init__(self, programs: Path, *, kubeconfig: Path, home: Path) -> None:
        self.programs = programs
        self.kubeconfig = kubeconfig
        self._home = home

    def run(self, program: str, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """`kubectl` or `helm`; the caller looks at the exit status."""
        environment = {
            **os.environ,
            "KUBECONFIG": str(self.kubeconfig),
            "HOME": str(self._home),
            "KUBECACHEDIR": str(self._home / "kube-cache"),
        }
        return subprocess.run(
            [self.programs / program, *arguments],
            input=stdin,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )

    def kubectl(self, *arguments: str, stdin: str = "") -> str:
        """What kubectl printed; fails with its message if it failed."""
        return self._succeed("kubectl", *arguments, stdin=stdin)

    def helm(self, *arguments: str) -> str:
        """What helm printed; fails with its message if it failed."""
        return self._succeed("helm", *arguments)

    def get(self, *arguments: str) -> Any:
        """An object or a list of objects, as `kubectl get` finds them."""
        return json.loads(self.kubectl("get", *arguments, "-o", "json"))

    def wait_for(self, condition: Callable[[], bool], *, limit_s: float, what: str) -> None:
        """Poll until the condition holds."""
        end_s = time.monotonic() + limit_s
        while not condition():
            assert time.monotonic() < end_s, f"no {what} within {limit_s:g} s"
            time.sleep(0.2)

    def collect(self, folder: Path) -> None:
        """Write down what may explain a failure: descriptions, events, and logs of our pods."""
        folder.mkdir(parents=True, exist_ok=True)
        kinds = "pods,deployments,replicasets,services,endpointslices,enginepools,tenants,priorityclasses.proserve.dev"
        ours = "app.kubernetes.io/part-of=proserve"
        for name, arguments in {
            "objects": ("get", kinds, "--all-namespaces", "-o", "wide"),
            "descriptions": ("describe", kinds, "--all-namespaces"),
            "events": ("get", "events", "--all-namespaces", "--sort-by=.metadata.creationTimestamp"),
            "logs": ("logs", "--all-namespaces", "-l", ours, "--prefix", "--tail=2000", "--max-log-requests=50"),
        }.items():
            done = self.run("kubectl", *arguments)
            (folder / f"{name}.txt").write_text(done.stdout + done.stderr)

    def _succeed(self, program: str, *arguments: str, stdin: str = "") -> str:
        done = self.run(program, *arguments, stdin=stdin)
        assert done.returncode == 0, f"{program} {' '.join(arguments)}: {done.stdout}{done.stderr}"
        return done.stdout
