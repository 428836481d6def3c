"""A real Kubernetes API server on loopback: etcd and kube-apiserver, with some controllers if a test wants them.

No nodes, so no pod ever runs; what needs running pods is in tests/cluster. Without controllers nothing but the API
server acts: no pods for a Deployment, no garbage collection, and a deleted namespace stays.
"""

import ssl
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from etcd_flags import etcd_flags
from kubernetes_access import KubernetesAccess
from kubernetes_keys import kubeconfig, make_authority, make_certificate
from proserve_lab.free_port import free_port
from server_process import ServerProcess

START_LIMIT_S = 300.0


class ApiServer(KubernetesAccess):
    """Started by the constructor, ended by `end`. Any number run side by side."""

    def __init__(self, programs: Path, folder: Path, *, controllers: Sequence[str] = ()) -> None:
        super().__init__(programs, kubeconfig=folder / "kubeconfig", home=folder / "home")
        self._folder = folder
        self._etcd_port, peer_port, self._port = free_port(), free_port(), free_port()
        self.url = f"https://127.0.0.1:{self._port}"
        make_authority(folder)
        make_certificate(folder, "server", subject="/CN=kube-apiserver", addresses=["IP:127.0.0.1", "DNS:localhost"])
        make_certificate(folder, "admin", subject="/O=system:masters/CN=admin")
        self.kubeconfig.write_text(kubeconfig(folder, server=self.url, user="admin"))
        self.tls = ssl.create_default_context(cafile=folder / "ca.crt")
        self.tls.load_cert_chain(folder / "admin.crt", folder / "admin.key")
        self._etcd = ServerProcess(
            [programs / "etcd", *etcd_flags(folder / "etcd", port=self._etcd_port, peer_port=peer_port)],
            log=folder / "etcd.log",
        )
        self._server: ServerProcess | None = None
        self._controllers: ServerProcess | None = None
        try:
            self.start()
            if controllers:
                self._controllers = self._start_controllers(controllers)
        except BaseException:
            self.end()
            raise

    def start(self) -> None:
        """Start kube-apiserver, at first or after `stop`: on the same port, with what was stored."""
        keys = self._folder
        flags = [
            f"--etcd-servers=http://127.0.0.1:{self._etcd_port}",
            "--bind-address=127.0.0.1",
            "--advertise-address=127.0.0.1",
            "--endpoint-reconciler-type=none",
            f"--secure-port={self._port}",
            f"--tls-cert-file={keys}/server.crt",
            f"--tls-private-key-file={keys}/server.key",
            f"--client-ca-file={keys}/ca.crt",
            f"--service-account-key-file={keys}/sa.pub",
            f"--service-account-signing-key-file={keys}/sa.key",
            "--service-account-issuer=https://kubernetes.default.svc",
            "--service-cluster-ip-range=10.0.0.0/24",
            "--authorization-mode=RBAC",
            # It waits for a token controller that may not run.
            "--disable-admission-plugins=ServiceAccount",
            "--allow-privileged=true",
        ]
        self._server = ServerProcess([self.programs / "kube-apiserver", *flags], log=self._folder / "apiserver.log")
        self._server.wait_until(self._is_ready, limit_s=START_LIMIT_S, what="/readyz")

    @property
    def port(self) -> int:
        return self._port

    def kubeconfig_through(self, port: int) -> Path:
        """A kubeconfig for somebody who reaches the server by another port of loopback."""
        made = self._folder / f"kubeconfig-{port}"
        made.write_text(kubeconfig(self._folder, server=f"https://127.0.0.1:{port}", user="admin"))
        return made

    def _start_controllers(self, controllers: Sequence[str]) -> ServerProcess:
        flags = [
            f"--kubeconfig={self.kubeconfig}",
            f"--controllers={','.join(controllers)}",
            "--leader-elect=false",
            f"--service-account-private-key-file={self._folder}/sa.key",
            f"--root-ca-file={self._folder}/ca.crt",
            "--kube-api-qps=300",
            "--kube-api-burst=600",
            "--secure-port=0",
            "--horizontal-pod-autoscaler-sync-period=1s",
        ]
        return ServerProcess([self.programs / "kube-controller-manager", *flags], log=self._folder / "controllers.log")

    def _is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/readyz", context=self.tls, timeout=5) as reply:
                return bool(reply.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def stop(self) -> None:
        """The API server goes away at once, as when its machine dies; what it stored stays."""
        self._running().kill()

    def pause(self) -> None:
        """It keeps its connections and answers nothing."""
        self._running().pause()

    def resume(self) -> None:
        self._running().resume()

    def _running(self) -> ServerProcess:
        assert self._server is not None
        return self._server

    def end(self) -> None:
        """Kill everything; what was stored is thrown away with the folder."""
        for process in (self._controllers, self._server, self._etcd):
            if process is not None:
                process.kill()
