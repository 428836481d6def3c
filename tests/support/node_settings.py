"""Settings of the programs of a test cluster: one node or two, no cloud, everything in one folder."""

from pathlib import Path

import msgspec

from node_namespace import NODE_ADDRESS, NODE_NETWORK, POD_NETWORK, SECOND_ADDRESS, SERVICE_NETWORK


class Node(msgspec.Struct, frozen=True, kw_only=True):
    """What tells a node from another one in the same namespaces."""

    name: str
    address: str
    pods: str
    """Network of its pods."""
    bridge: str
    control_group: str
    """Below it are those of the node's pods."""


NODE = Node(name="node1", address=NODE_ADDRESS, pods="198.18.64.0/19", bridge="pods1", control_group="/")
SECOND_NODE = Node(
    name="node2", address=SECOND_ADDRESS, pods="198.18.96.0/19", bridge="pods2", control_group="/proserve-node2"
)
API_PORT = 6443
API_URL = f"https://{NODE_ADDRESS}:{API_PORT}"
FIRST_SERVICE = "198.19.0.1"
DNS_SERVICE = "198.19.0.10"
PAUSE_IMAGE = "localhost/pause:1"
COREDNS_IMAGE = "localhost/coredns:1"
CLIENTS = {
    "admin": "/O=system:masters/CN=admin",
    "controller-manager": "/CN=system:kube-controller-manager",
    "scheduler": "/CN=system:kube-scheduler",
    "proxy": "/CN=system:kube-proxy",
}
API_NAMES = [
    *(f"DNS:kubernetes{suffix}" for suffix in ("", ".default", ".default.svc", ".default.svc.cluster.local")),
    f"IP:{NODE_ADDRESS}",
    f"IP:{FIRST_SERVICE}",
]


def containerd_config(folder: Path) -> str:
    # Without CAP_SYS_RESOURCE a lower oom_score_adj is refused, and with it every pod.
    return f"""\
version = 2
root = "{folder}/containerd/root"
state = "{folder}/containerd/state"
oom_score = 0
[grpc]
  address = "{containerd_socket(folder)}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE_IMAGE}"
  restrict_oom_score_adj = true
  disable_hugetlb_controller = true
  stream_server_address = "127.0.0.1"
  stream_server_port = "0"
[plugins."io.containerd.grpc.v1.cri".cni]
  bin_dir = "/usr/lib/cni"
  conf_dir = "{folder}/cni"
[plugins."io.containerd.grpc.v1.cri".containerd]
  snapshotter = "overlayfs"
  default_runtime_name = "runc"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
  SystemdCgroup = false
[plugins."io.containerd.internal.v1.opt"]
  path = "{folder}/containerd/opt"
"""


def containerd_socket(folder: Path) -> Path:
    return folder / "containerd.sock"


def pod_network(folder: Path, node: Node) -> str:
    return f"""\
{{"cniVersion": "0.4.0", "name": "pods", "plugins": [
  {{"type": "bridge", "bridge": "{node.bridge}", "isGateway": true, "ipMasq": false, "hairpinMode": true,
    "ipam": {{"type": "host-local", "dataDir": "{folder}/cni-addresses", "ranges": [[{{"subnet": "{node.pods}"}}]],
             "routes": [{{"dst": "0.0.0.0/0"}}]}}}},
  {{"type": "portmap", "capabilities": {{"portMappings": true}}}}]}}
"""


def kubelet_config(folder: Path, node: Node) -> str:
    return f"""\
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: {node.address}
healthzBindAddress: {node.address}
authentication: {{anonymous: {{enabled: false}}, webhook: {{enabled: true}}, x509: {{clientCAFile: {folder}/ca.crt}}}}
authorization: {{mode: Webhook}}
tlsCertFile: {folder}/kubelet-server.crt
tlsPrivateKeyFile: {folder}/kubelet-server.key
containerRuntimeEndpoint: unix://{containerd_socket(folder)}
imageServiceEndpoint: unix://{containerd_socket(folder)}
cgroupDriver: cgroupfs
cgroupRoot: {node.control_group}
failCgroupV1: false
failSwapOn: false
oomScoreAdj: 0
clusterDomain: cluster.local
clusterDNS: [{DNS_SERVICE}]
resolvConf: /dev/null
staticPodPath: ""
podLogsDir: {folder}/pod-logs
volumePluginDir: {folder}/kubelet/volume-plugins
syncFrequency: 5s
# Pods that are killed in tests come back soon, each time.
crashLoopBackOff: {{maxContainerRestartPeriod: 2s}}
evictionHard: {{memory.available: 100Mi, nodefs.available: "1%", nodefs.inodesFree: "1%", imagefs.available: "1%"}}
imageGCHighThresholdPercent: 100
maxPods: 60
"""


def kube_proxy_config(folder: Path) -> str:
    return f"""\
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
bindAddress: {NODE_ADDRESS}
clientConnection: {{kubeconfig: {folder}/proxy.kubeconfig}}
clusterCIDR: {POD_NETWORK}
mode: iptables
iptables: {{minSyncPeriod: 100ms}}
hostnameOverride: {NODE.name}
oomScoreAdj: 0
# Zero: these belong to the machine and stay as they are.
conntrack: {{maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}}
nodePortAddresses: ["{NODE_NETWORK}"]
"""


def audit_policy() -> str:
    """What service accounts of installed releases ask for; nothing about the node's own parts."""
    return """\
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
  - {level: None, userGroups: ["system:serviceaccounts:kube-system"]}
  - {level: Metadata, userGroups: ["system:serviceaccounts"]}
"""


def api_server_flags(folder: Path) -> list[str]:
    return [
        f"--audit-policy-file={folder}/audit-policy.yaml",
        f"--audit-log-path={folder}/audit.log",
        "--etcd-servers=http://127.0.0.1:2379",
        f"--bind-address={NODE_ADDRESS}",
        f"--advertise-address={NODE_ADDRESS}",
        f"--secure-port={API_PORT}",
        f"--tls-cert-file={folder}/server.crt",
        f"--tls-private-key-file={folder}/server.key",
        f"--client-ca-file={folder}/ca.crt",
        f"--kubelet-client-certificate={folder}/admin.crt",
        f"--kubelet-client-key={folder}/admin.key",
        f"--kubelet-certificate-authority={folder}/ca.crt",
        # No DNS outside the cluster knows the node's name.
        "--kubelet-preferred-address-types=InternalIP",
        f"--service-cluster-ip-range={SERVICE_NETWORK}",
        f"--service-account-key-file={folder}/sa.pub",
        f"--service-account-signing-key-file={folder}/sa.key",
        "--service-account-issuer=https://kubernetes.default.svc",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        # The node itself has no route to addresses of Services.
        "--enable-aggregator-routing",
        "--allow-privileged=true",
    ]


def controller_manager_flags(folder: Path) -> list[str]:
    return [
        *_component_flags(folder, "controller-manager"),
        f"--service-account-private-key-file={folder}/sa.key",
        f"--root-ca-file={folder}/ca.crt",
        "--use-service-account-credentials",
        # With the default of 20 requests/s it takes five seconds until the first pod can be scheduled.
        "--kube-api-qps=300",
        "--kube-api-burst=600",
        f"--cluster-cidr={POD_NETWORK}",
        "--node-monitor-period=1s",
        "--horizontal-pod-autoscaler-sync-period=2s",
    ]


def scheduler_flags(folder: Path) -> list[str]:
    return _component_flags(folder, "scheduler")


def network_policies_flags(folder: Path) -> list[str]:
    return [f"--kubeconfig={folder}/admin.kubeconfig", f"--node={NODE.name}", f"--services={SERVICE_NETWORK}"]


def kubelet_flags(folder: Path, node: Node) -> list[str]:
    return [
        f"--config={folder}/kubelet.yaml",
        f"--kubeconfig={folder}/kubelet.kubeconfig",
        f"--hostname-override={node.name}",
        f"--node-ip={node.address}",
        f"--root-dir={folder}/kubelet",
        f"--cert-dir={folder}/kubelet-certificates",
    ]


def _component_flags(folder: Path, client: str) -> list[str]:
    kubeconfig = folder / f"{client}.kubeconfig"
    return [
        f"--kubeconfig={kubeconfig}",
        f"--authentication-kubeconfig={kubeconfig}",
        f"--authorization-kubeconfig={kubeconfig}",
        "--bind-address=127.0.0.1",
        "--leader-elect=false",
    ]
