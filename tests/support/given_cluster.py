"""The cluster of KUBECONFIG, for tests on somebody's own: reached through port-forwards, and left as it was."""

import os
import re
from pathlib import Path

from kubernetes_access import KubernetesAccess
from server_process import ServerProcess

IMAGE_VARIABLE = "PROSERVE_CLUSTER_IMAGE"
_FORWARDED = re.compile(r"Forwarding from (127\.0\.0\.1:\d+)")


class GivenCluster(KubernetesAccess):
    """Ended by `end`."""

    def __init__(self, programs: Path, folder: Path) -> None:
        super().__init__(programs, kubeconfig=Path(os.environ["KUBECONFIG"]).resolve(), home=folder / "home")
        self._folder = folder
        self._forwards: dict[tuple[str, str], ServerProcess] = {}

    def address(self, service: str, port: str, *, namespace: str) -> str:
        """Where a port of a Service can be reached from here."""
        return self._forwarded(f"service/{service}", port, namespace)

    def pod_address(self, pod: str, port: int, *, namespace: str) -> str:
        """Where a port of a pod can be reached from here."""
        return self._forwarded(f"pod/{pod}", str(port), namespace)

    def _forwarded(self, target: str, port: str, namespace: str) -> str:
        forward = self._forwards.get((target, port))
        if forward is None or not forward.running:
            log = self._folder / f"{target.replace('/', '-')}-{port}.log"
            log.unlink(missing_ok=True)
            arguments = ["--namespace", namespace, "port-forward", target, f":{port}"]
            command: list[str | Path] = [self.programs / "kubectl", f"--kubeconfig={self.kubeconfig}", *arguments]
            forward = self._forwards[(target, port)] = ServerProcess(command, log=log)
            forward.wait_until(lambda: bool(_FORWARDED.search(log.read_text())), limit_s=300, what="forwarded port")
        found = _FORWARDED.search(forward.log.read_text())
        assert found is not None
        return found[1]

    def helm(self, *arguments: str) -> str:
        """As for any cluster. Other pods may be there then, and a forward ends with the pod that it goes to."""
        printed = super().helm(*arguments)
        self.end()
        return printed

    def end(self) -> None:
        for forward in self._forwards.values():
            forward.kill()
        self._forwards.clear()
