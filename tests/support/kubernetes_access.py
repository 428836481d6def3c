"""kubectl and helm for one cluster."""

import json
import os
import subprocess
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

    def _succeed(self, program: str, *arguments: str, stdin: str = "") -> str:
        done = self.run(program, *arguments, stdin=stdin)
        assert done.returncode == 0, f"{program} {' '.join(arguments)}: {done.stdout}{done.stderr}"
        return done.stdout
