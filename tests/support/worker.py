"""What makes a machine a node: containerd, with a network for pods, and kubelet."""

import shutil
from pathlib import Path

import node_settings
from kubernetes_keys import kubeconfig, make_certificate
from node_namespace import NodeNamespace, make_control_group
from node_settings import Node
from server_process import ServerProcess

START_LIMIT_S = 300.0


class Worker:
    """Several of them run in the same namespaces, each with a folder of its own that has the authority's files."""

    def __init__(self, folder: Path, node: Node, *, programs: Path, namespace: NodeNamespace) -> None:
        """Writes the settings; nothing runs yet."""
        self.node = node
        self._folder = folder
        self._programs = programs
        self._namespace = namespace
        self._processes: list[ServerProcess] = []
        make_certificate(folder, "kubelet", subject=f"/O=system:nodes/CN=system:node:{node.name}")
        names = [f"DNS:{node.name}", f"IP:{node.address}"]
        make_certificate(folder, "kubelet-server", subject=f"/CN={node.name}", addresses=names)
        text = kubeconfig(folder, server=node_settings.API_URL, user="kubelet")
        (folder / "kubelet.kubeconfig").write_text(text)
        (folder / "cni").mkdir()
        (folder / "cni" / "10-pods.conflist").write_text(node_settings.pod_network(folder, node))
        (folder / "containerd.toml").write_text(node_settings.containerd_config(folder))
        (folder / "kubelet.yaml").write_text(node_settings.kubelet_config(folder, node))
        make_control_group(node.control_group.strip("/"))

    def start_containerd(self) -> None:
        """Images can be imported afterwards."""
        self._namespace.make_store(self._folder / "containerd")
        containerd = shutil.which("containerd") or "containerd"
        running = self._run("containerd", containerd, "-c", self._folder / "containerd.toml")
        running.wait_until(self._socket.exists, limit_s=START_LIMIT_S, what="socket")

    def start_kubelet(self) -> ServerProcess:
        """The API server is there."""
        return self._run("kubelet", self._programs / "kubelet", *node_settings.kubelet_flags(self._folder, self.node))

    @property
    def _socket(self) -> Path:
        return node_settings.containerd_socket(self._folder)

    def _run(self, name: str, *command: str | Path) -> ServerProcess:
        process = ServerProcess(command, log=self._folder / f"{name}.log", enter=self._namespace.enter)
        self._processes.append(process)
        return process

    def import_image(self, archive: Path) -> None:
        """Make the image of an OCI archive available to pods."""
        self.ctr("images", "import", str(archive))

    def ctr(self, *arguments: str) -> None:
        """containerd's client."""
        self._namespace.run("ctr", f"--address={self._socket}", "--namespace=k8s.io", *arguments)

    def logs(self) -> list[Path]:
        """Of its programs, and of containers that have ended, too."""
        return [*self._folder.glob("*.log"), *self._folder.glob("pod-logs/*/*/*.log")]

    def kill(self) -> None:
        for process in reversed(self._processes):
            process.kill()
