{{/* Names, labels and parts that several templates share. A component is "operator" or "gateway". */}}

{{- define "proserve.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" }}
{{- end }}

{{- define "proserve.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" }}
{{- else if contains (include "proserve.name" .) .Release.Name }}
{{- .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "proserve.name" .) | trunc 40 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{/* Cluster-scoped names hold the namespace: two releases of one name must not share a role. Neither part has a colon,
so no other two parts give the same. */}}
{{- define "proserve.clusterName" -}}
{{- printf "%s:%s" .Release.Namespace (include "proserve.fullname" .) }}
{{- end }}

{{/* (dict "root" $ "component" NAME) */}}
{{- define "proserve.selectorLabels" -}}
app.kubernetes.io/name: {{ include "proserve.name" .root | quote }}
app.kubernetes.io/instance: {{ .root.Release.Name | quote }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{/* (dict "root" $ "component" NAME "more" LABELS), `more` only if there are some. Each name is written once: what users
give wins over the chart's, but for what selects pods (refused in _validation.tpl). */}}
{{- define "proserve.labels" -}}
{{- $own := dict
  "helm.sh/chart" (printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_")
  "app.kubernetes.io/version" .root.Chart.AppVersion
  "app.kubernetes.io/managed-by" .root.Release.Service
  "app.kubernetes.io/part-of" "proserve" }}
{{- $selector := fromYaml (include "proserve.selectorLabels" .) }}
{{- toYaml (merge $selector (default dict .more) (default dict .root.Values.commonLabels) $own) }}
{{- end }}

{{/* (dict "root" $ "image" MAPPING) */}}
{{- define "proserve.image" -}}
{{- if .image.digest }}
{{- printf "%s@%s" .image.repository .image.digest }}
{{- else }}
{{- printf "%s:%s" .image.repository (default .root.Chart.AppVersion .image.tag) }}
{{- end }}
{{- end }}

{{/* (dict "root" $ "component" NAME) */}}
{{- define "proserve.serviceAccount" -}}
{{- $account := (index .root.Values .component).serviceAccount }}
{{- if $account.create }}
{{- default (printf "%s-%s" (include "proserve.fullname" .root) .component) $account.name }}
{{- else }}
{{- $account.name }}
{{- end }}
{{- end }}

{{/* Seconds that open requests get when a gateway leaves: it closes before it would be killed. */}}
{{- define "proserve.gatewayGrace" -}}
{{- with .Values.gateway }}
{{- sub (int .terminationGracePeriodSeconds) (add (int .preStopSeconds) 10) }}
{{- end }}
{{- end }}

{{/* (dict "root" $ "component" NAME): what users may say about pods of a component */}}
{{- define "proserve.scheduling" -}}
{{- $settings := index .root.Values .component }}
{{- with .root.Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $settings.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $settings.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $settings.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $settings.priorityClassName }}
priorityClassName: {{ . | quote }}
{{- end }}
topologySpreadConstraints:
  {{- with $settings.topologySpreadConstraints }}
  {{- toYaml . | nindent 2 }}
  {{- else }}
  - maxSkew: 1
    topologyKey: kubernetes.io/hostname
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "proserve.selectorLabels" . | nindent 8 }}
  {{- end }}
{{- end }}

{{/* URL of the gateway as pods of the cluster see it. */}}
{{- define "proserve.gatewayUrl" -}}
{{- $scheme := ternary "https" "http" (ne .Values.gateway.tls.secretName "") }}
{{- printf "%s://%s-gateway.%s.svc:%v" $scheme (include "proserve.fullname" .) .Release.Namespace .Values.gateway.service.httpPort }}
{{- end }}
