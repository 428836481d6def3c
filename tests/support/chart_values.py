"""Values with which the chart is rendered: every switch is on in one of them."""

from typing import Any

VALUES: dict[str, dict[str, Any]] = {
    "defaults": {},
    "one of each": {
        "operator": {"replicas": 1},
        "gateway": {"replicas": 1},
        "networkPolicy": {"enabled": False},
        "rbac": {"aggregate": False},
        "crds": {"install": False},
    },
    "namespaces": {
        "watchNamespaces": ["team-a", "team-b"],
        "imagePullSecrets": [{"name": "registry"}],
        "image": {"digest": f"sha256:{'a' * 64}"},
        "commonLabels": {"cost-centre": "42", "app.kubernetes.io/part-of": "inference", "helm.sh/chart": "ours"},
        "gateway": {"serviceAccount": {"create": False, "name": "existing"}, "admin": {"secretName": "admin-keys"}},
    },
    "user that the cluster chooses": {
        "podSecurityContext": {"runAsUser": None, "runAsGroup": None, "fsGroup": None},
    },
    "TLS up to the gateway": {
        "gateway": {
            "tls": {"secretName": "gateway-tls"},
            "ingress": {
                "enabled": True,
                "hosts": ["llm.example.com"],
                "annotations": {"nginx.ingress.kubernetes.io/backend-protocol": "HTTPS"},
            },
        },
    },
    "client certificates": {
        "gateway": {
            "tls": {"secretName": "gateway-tls"},
            "extraArgs": ["--tls-client-ca=/etc/proserve/clients/ca.crt"],
            "extraVolumes": [{"name": "clients", "secret": {"secretName": "client-ca"}}],
            "extraVolumeMounts": [{"name": "clients", "mountPath": "/etc/proserve/clients", "readOnly": True}],
        },
    },
    "everything on": {
        "operator": {
            "extraArgs": ["--lease-namespace=elsewhere"],
            "extraEnv": [{"name": "A", "value": "b"}],
            "podAnnotations": {"example.com/a": "b"},
            "podLabels": {"team": "platform", "app.kubernetes.io/version": "1"},
            "nodeSelector": {"pool": "system"},
            "tolerations": [{"operator": "Exists"}],
            "affinity": {"nodeAffinity": {}},
            "priorityClassName": "2000",
            "serviceAccount": {"annotations": {"example.com/role": "x"}},
        },
        "gateway": {
            "service": {"type": "LoadBalancer", "annotations": {"example.com/lb": "internal"}},
            "admin": {"secretName": "admin-keys"},
            "quotas": {"secretName": "valkey"},
            "ingress": {"enabled": True, "className": "1", "hosts": ["llm.example.com"], "annotations": {"a": "b"}},
            "httpRoute": {"enabled": True, "parentRefs": [{"name": "public"}], "hostnames": ["llm.example.com"]},
            "autoscaling": {"enabled": True},
            "extraEnv": [{"name": "A", "value": "b"}],
            "topologySpreadConstraints": [
                {
                    "maxSkew": 1,
                    "topologyKey": "topology.kubernetes.io/zone",
                    "whenUnsatisfiable": "DoNotSchedule",
                    "labelSelector": {"matchLabels": {"app.kubernetes.io/component": "gateway"}},
                }
            ],
        },
        "networkPolicy": {"scraperNamespace": "monitoring"},
        "monitoring": {
            "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
            "prometheusRule": {"enabled": True},
            "dashboards": {"enabled": True, "annotations": {"grafana_folder": "ProServe"}},
        },
        "test": {
            "model": "tiny",
            "apiKeySecret": {"name": "keys", "key": "product"},
            "resources": {"limits": {"cpu": "100m"}},
        },
        "extraObjects": [
            {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {"name": "extra"},
                "data": {"at": "{{ .Release.Name }}"},
            },
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: extra-text}\n",
        ],
    },
}
"""Named; each is a values file."""

WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "unknown key": ({"gatway": {"replicas": 3}}, "gatway"),
    "unknown key below": ({"gateway": {"replica": 3}}, "replica"),
    "wrong type": ({"gateway": {"replicas": "three"}}, "replicas"),
    "not a digest": ({"image": {"digest": "latest"}}, "digest"),
    "namespace twice": ({"watchNamespaces": ["a", "a"]}, "watchNamespaces"),
    "no service account": ({"operator": {"serviceAccount": {"create": False}}}, "name an existing ServiceAccount"),
    "fewest above most": (
        {"gateway": {"autoscaling": {"enabled": True, "minReplicas": 9}}},
        "minReplicas 9 is more than maxReplicas 8",
    ),
    "nothing to scale on": (
        {"gateway": {"autoscaling": {"enabled": True}, "resources": {"requests": {"cpu": None}}}},
        "gateway.resources.requests.cpu is missing",
    ),
    "route to nowhere": ({"gateway": {"httpRoute": {"enabled": True}}}, "name the Gateway"),
    "nothing at all to scale on": (
        {"gateway": {"autoscaling": {"enabled": True}, "resources": None}},
        "gateway.resources.requests.cpu is missing",
    ),
    "name of no object": ({"nameOverride": "Foo Bar"}, "nameOverride"),
    "one port for two": ({"gateway": {"service": {"httpPort": 8001}}}, "httpPort and grpcPort are both 8001"),
    "label of the release's own for all": (
        {"commonLabels": {"app.kubernetes.io/name": "llm"}},
        "commonLabels: app.kubernetes.io/name is how the release finds its pods",
    ),
    "label of the release's own for pods": (
        {"gateway": {"podLabels": {"app.kubernetes.io/component": "edge"}}},
        "gateway.podLabels: app.kubernetes.io/component is how",
    ),
    "volume of the chart's own": (
        {"gateway": {"extraVolumes": [{"name": "tls", "secret": {"secretName": "mine"}}]}},
        "gateway.extraVolumes: tls is a volume of the chart's own",
    ),
    "a part left empty": ({"gateway": None}, "gateway"),
    "interval left empty": ({"monitoring": {"serviceMonitor": {"interval": None}}}, "interval"),
    "ingress for nobody": ({"gateway": {"ingress": {"enabled": True}}}, "name at least one"),
    "ingress without TLS before a gateway with it": (
        {"gateway": {"tls": {"secretName": "tls"}, "ingress": {"enabled": True, "hosts": ["a.example.com"]}}},
        "end TLS at the Ingress",
    ),
    "route without TLS before a gateway with it": (
        {"gateway": {"tls": {"secretName": "tls"}, "httpRoute": {"enabled": True, "parentRefs": [{"name": "public"}]}}},
        "add a BackendTLSPolicy",
    ),
    "no time to drain": ({"gateway": {"terminationGracePeriodSeconds": 15}}, "set it to 16 or more"),
    "monitors of what nobody may read": (
        {"monitoring": {"serviceMonitor": {"enabled": True}}},
        "name the namespace of Prometheus in networkPolicy.scraperNamespace",
    ),
    "half a key": ({"test": {"apiKeySecret": {"name": "keys"}}}, "give both or none"),
    "resources before their kinds": (
        {"extraObjects": [{"apiVersion": "proserve.dev/v1alpha1", "kind": "Tenant", "metadata": {"name": "a"}}]},
        "add them with `helm upgrade`",
    ),
}
"""Values that are refused, and what the message holds."""
