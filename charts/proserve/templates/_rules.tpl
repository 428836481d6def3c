{{/* What operator and gateway do in the namespaces that they watch, and with PriorityClasses of the whole cluster.
tests/cluster compares this with what they did. */}}

{{- define "proserve.operatorRules" -}}
- apiGroups: [proserve.dev]
  resources: [enginepools, tenants]
  verbs: [get, list, watch]
- apiGroups: [proserve.dev]
  resources: [enginepools/status, tenants/status]
  verbs: [patch]
# Made for each pool by server-side apply, which is a patch, and a create where there is no object yet.
- apiGroups: [apps]
  resources: [deployments]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [""]
  resources: [services]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [get, list, watch, create, patch, delete]
# Without monitoring those of before are removed.
- apiGroups: [monitoring.coreos.com]
  resources: [servicemonitors]
  verbs: [get, list, watch, {{ if .Values.monitoring.serviceMonitor.enabled }}create, patch, {{ end }}delete]
# Which engine a scale-down removes.
- apiGroups: [""]
  resources: [pods]
  verbs: [patch]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create]
{{- end }}

{{- define "proserve.operatorClusterRules" -}}
- apiGroups: [proserve.dev]
  resources: [priorityclasses]
  verbs: [get, list, watch]
{{- if not .Values.watchNamespaces }}
- apiGroups: [proserve.dev]
  resources: [priorityclasses/status]
  verbs: [patch]
{{- end }}
{{- end }}

{{- define "proserve.gatewayRules" -}}
- apiGroups: [proserve.dev]
  resources: [enginepools, tenants]
  verbs: [list, watch]
# API keys of tenants.
- apiGroups: [""]
  resources: [secrets]
  verbs: [get, list, watch]
- apiGroups: [discovery.k8s.io]
  resources: [endpointslices]
  verbs: [list, watch]
{{- end }}

{{- define "proserve.gatewayClusterRules" -}}
- apiGroups: [proserve.dev]
  resources: [priorityclasses]
  verbs: [list, watch]
{{- end }}
