"""A real single-node Kubernetes in namespaces of its own: containerd, etcd, the control plane, kubelet and kube-proxy.

Pods run, Services and DNS work, and the host reaches both. A second node can be had for a while. Not there: a way out
of the nodes, load balancers, a metrics server, and enforced NetworkPolicies but for a while. One such cluster runs on a
machine at a time; a second one waits.
"""

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import node_settings
from etcd_flags import etcd_flags
from kubernetes_access import KubernetesAccess
from kubernetes_keys import kubeconfig, make_authority, make_certificate
from node_namespace import NodeNamespace
from server_process import ServerProcess
from worker import START_LIMIT_S, Worker

TOOLS = ("containerd", "ctr", "runc", "iptables", "ipset", "conntrack", "nsenter", "unshare", "ip", "openssl")
PACKAGES = "containerd runc containernetworking-plugins iptables ipset conntrack iproute2 util-linux openssl"
LOCK = Path("/tmp/proserve-single-node.lock")


def missing_here() -> str | None:
    """Why this machine cannot run a node, or None."""
    if os.geteuid() != 0:
        return "a Kubernetes node needs root"
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if not Path("/usr/lib/cni/bridge").exists():
        missing.append("/usr/lib/cni/bridge")
    if missing:
        return f"a Kubernetes node needs {', '.join(missing)}: apt-get install {PACKAGES}"
    return None


class SingleNode(KubernetesAccess):
    """Started by the constructor, ended by `end`. `folder` has a short path: sockets are in it."""

    def __init__(self, programs: Path, folder: Path) -> None:
        super().__init__(programs, kubeconfig=folder / "admin.kubeconfig", home=folder / "home")
        self.folder = folder
        self._resources = contextlib.ExitStack()
        self._processes: dict[str, ServerProcess] = {}
        self._workers: list[Worker] = []
        self._archives: list[Path] = []
        try:
            lock = self._resources.enter_context(LOCK.open("w"))
            fcntl.flock(lock, fcntl.LOCK_EX)
            self._write_settings()
            self.namespace = NodeNamespace(folder)
            self._resources.callback(self.namespace.end)
            self._start()
        except BaseException:
            self.end()
            raise

    def _write_settings(self) -> None:
        folder = self.folder
        make_authority(folder)
        for client, subject in node_settings.CLIENTS.items():
            make_certificate(folder, client, subject=subject)
            text = kubeconfig(folder, server=node_settings.API_URL, user=client)
            (folder / f"{client}.kubeconfig").write_text(text)
        make_certificate(folder, "server", subject="/CN=kube-apiserver", addresses=node_settings.API_NAMES)
        (folder / "audit-policy.yaml").write_text(node_settings.audit_policy())
        (folder / "proxy.yaml").write_text(node_settings.kube_proxy_config(folder))

    def _start(self) -> None:
        folder, programs = self.folder, self.programs
        self._first = self._worker(folder, node_settings.NODE)
        self._first.start_containerd()
        self.namespace.make_store(folder / "etcd")
        self._run("etcd", programs / "etcd", *etcd_flags(folder / "etcd" / "data", port=2379, peer_port=2380))
        self.start_api_server()
        self._run(
            "controller-manager", programs / "kube-controller-manager", *node_settings.controller_manager_flags(folder)
        )
        self._run("scheduler", programs / "kube-scheduler", *node_settings.scheduler_flags(folder))
        self._run("proxy", programs / "kube-proxy", f"--config={folder / 'proxy.yaml'}")
        self._start_kubelet(self._first)

    def _worker(self, folder: Path, node: node_settings.Node) -> Worker:
        worker = Worker(folder, node, programs=self.programs, namespace=self.namespace)
        self._workers.append(worker)
        return worker

    def _start_kubelet(self, worker: Worker) -> None:
        kubelet, name = worker.start_kubelet(), worker.node.name
        kubelet.wait_until(lambda: self._can_run_pods(name), limit_s=START_LIMIT_S, what="node that is Ready")

    @contextlib.contextmanager
    def second_node(self) -> Iterator[str]:
        """Name of another node with the same images, until the end; whoever asks for it moves all pods away from it."""
        folder = self.folder / node_settings.SECOND_NODE.name
        folder.mkdir()
        for name in ("ca.crt", "ca.key"):
            shutil.copy(self.folder / name, folder)
        worker = self._worker(folder, node_settings.SECOND_NODE)
        worker.start_containerd()
        for archive in self._archives:
            worker.import_image(archive)
        self._start_kubelet(worker)
        try:
            self._wait_for_scheduler(worker.node.name)
            yield worker.node.name
        finally:
            self.kubectl("delete", "node", worker.node.name)
            worker.kill()

    @contextlib.contextmanager
    def enforced_network_policies(self, programs: Path) -> Iterator[None]:
        """NetworkPolicies, of which there are some, hold for the pods of the first node, until the end; `programs` has
        the agent."""
        flags = node_settings.network_policies_flags(self.folder)
        agent = self._run("network-policies", programs / "network-policies", *flags)
        try:
            agent.wait_until(
                lambda: "KUBE-POD-FW-" in self.namespace.run("iptables", "--list-rules"),
                limit_s=START_LIMIT_S,
                what="rules for pods",
            )
            yield
        finally:
            agent.stop(START_LIMIT_S)

    def _wait_for_scheduler(self, node: str) -> None:
        """Until it knows the node. After a restart of the API server it waits before it looks again, and until then
        places pods on a node that is being drained."""
        spec = {"nodeSelector": {"kubernetes.io/hostname": node}}
        overrides = f"--overrides={json.dumps({'apiVersion': 'v1', 'spec': spec})}"
        self.kubectl("run", "probe", "--image=localhost/pause:1", overrides)
        self.kubectl("wait", "--for=condition=PodScheduled", "pod/probe", "--timeout=300s")
        self.kubectl("delete", "pod", "probe", "--now")

    def _run(self, name: str, *command: str | Path) -> ServerProcess:
        made = ServerProcess(command, log=self.folder / f"{name}.log", enter=self.namespace.enter)
        self._processes[name] = made
        return made

    def start_api_server(self) -> None:
        """At first, or after `stop_api_server`."""
        self._run("api-server", self.programs / "kube-apiserver", *node_settings.api_server_flags(self.folder))
        self._processes["api-server"].wait_until(
            lambda: self.run("kubectl", "get", "--raw", "/readyz").returncode == 0,
            limit_s=START_LIMIT_S,
            what="/readyz",
        )

    def stop_api_server(self) -> None:
        """It goes away at once; pods run on."""
        self._processes["api-server"].kill()

    def _can_run_pods(self, name: str) -> bool:
        if self.run("kubectl", "get", "serviceaccount", "default").returncode != 0:
            return False
        node = self.run("kubectl", "get", "node", name, "-o", "jsonpath={.spec.taints}{.status.conditions}")
        return node.returncode == 0 and "KubeletReady" in node.stdout and "not-ready" not in node.stdout

    def requests_of(self, account: str) -> list[dict[str, Any]]:
        """Everything that a service account, written `NAMESPACE:NAME`, has asked of the API server; audit events."""
        found = [json.loads(line) for line in (self.folder / "audit.log").read_text().splitlines()]
        return [event for event in found if event["user"]["username"] == f"system:serviceaccount:{account}"]

    def import_image(self, archive: Path) -> None:
        """Make the image of an OCI archive available to pods, on all nodes."""
        self._archives.append(archive)
        self._first.import_image(archive)

    def tag_image(self, name: str, other: str) -> None:
        """Give an image another name, too."""
        self._first.ctr("images", "tag", name, other)

    def start_dns(self) -> None:
        """Names of the cluster, for pods; the image of CoreDNS is there."""
        self.kubectl("apply", "-f", str(Path(__file__).parent / "cluster_dns.yaml"))
        self.kubectl("rollout", "status", "deployment/coredns", "--namespace=kube-system", "--timeout=300s")

    def add_gpus(self, count: int) -> None:
        """Give the node GPUs that are not there: pods that ask for them are scheduled, containers get nothing."""
        amount = f'{{"nvidia.com/gpu": "{count}"}}'
        status = f'{{"status": {{"capacity": {amount}, "allocatable": {amount}}}}}'
        self.kubectl("patch", "node", node_settings.NODE.name, "--subresource=status", "--type=merge", "-p", status)

    def address(self, service: str, port: str, *, namespace: str) -> str:
        """Where a port of a Service can be reached from here."""
        found = self.get("service", service, "--namespace", namespace)["spec"]
        (number,) = [each["port"] for each in found["ports"] if each["name"] == port]
        return f"{found['clusterIP']}:{number}"

    def pod_address(self, pod: str, port: int, *, namespace: str) -> str:
        """Where a port of a pod can be reached from here."""
        return f"{self.get('pod', pod, '--namespace', namespace)['status']['podIP']}:{port}"

    def collect(self, folder: Path) -> None:
        """Logs of ended containers and of the node, too."""
        super().collect(folder)
        for log in {*self.folder.glob("*.log"), *(log for worker in self._workers for log in worker.logs())}:
            shutil.copy(log, folder / "-".join(log.relative_to(self.folder).parts))

    def end(self) -> None:
        """Everything ends with the namespaces."""
        self._resources.close()
        for worker in self._workers:
            worker.kill()
        for process in self._processes.values():
            process.kill()
