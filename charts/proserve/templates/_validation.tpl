{{/* What the schema cannot say: fields that only make sense together. Every message names the fix. */}}
{{- define "proserve.validate" -}}
{{- $errors := list }}
{{- range $component := list "operator" "gateway" }}
{{- $account := (index $.Values $component).serviceAccount }}
{{- if and (not $account.create) (not $account.name) }}
{{- $errors = append $errors (printf "%s.serviceAccount: create is false and name is empty; name an existing ServiceAccount" $component) }}
{{- end }}
{{- end }}
{{- $labels := dict "commonLabels" .Values.commonLabels "operator.podLabels" .Values.operator.podLabels "gateway.podLabels" .Values.gateway.podLabels }}
{{- range $part := list "serviceMonitor" "prometheusRule" "dashboards" }}
{{- $_ := set $labels (printf "monitoring.%s.labels" $part) (index $.Values.monitoring $part).labels }}
{{- end }}
{{- range $value, $given := $labels }}
{{- range $name := list "name" "instance" "component" }}
{{- if hasKey (default dict $given) (printf "app.kubernetes.io/%s" $name) }}
{{- $errors = append $errors (printf "%s: app.kubernetes.io/%s is how the release finds its pods; take another label, or nameOverride for the name" $value $name) }}
{{- end }}
{{- end }}
{{- end }}
{{- range .Values.gateway.extraVolumes }}
{{- if has .name (list "tmp" "tls" "admin-keys") }}
{{- $errors = append $errors (printf "gateway.extraVolumes: %s is a volume of the chart's own; give yours another name" .name) }}
{{- end }}
{{- end }}
{{- with .Values.gateway }}
{{- if eq (int .service.httpPort) (int .service.grpcPort) }}
{{- $errors = append $errors (printf "gateway.service: httpPort and grpcPort are both %d; give each its own" (int .service.httpPort)) }}
{{- end }}
{{- if and .autoscaling.enabled (gt (int .autoscaling.minReplicas) (int .autoscaling.maxReplicas)) }}
{{- $errors = append $errors (printf "gateway.autoscaling: minReplicas %d is more than maxReplicas %d; lower the one or raise the other" (int .autoscaling.minReplicas) (int .autoscaling.maxReplicas)) }}
{{- end }}
{{- if and .autoscaling.enabled (not (dig "requests" "cpu" "" (default dict .resources))) }}
{{- $errors = append $errors "gateway.autoscaling: a share of the requested CPU is its target, and gateway.resources.requests.cpu is missing; set it" }}
{{- end }}
{{- if and .httpRoute.enabled (not .httpRoute.parentRefs) }}
{{- $errors = append $errors "gateway.httpRoute: enabled without parentRefs; name the Gateway that it attaches to" }}
{{- end }}
{{- if and .ingress.enabled (not .ingress.hosts) }}
{{- $errors = append $errors "gateway.ingress: enabled without hosts; name at least one" }}
{{- end }}
{{- if and .tls.secretName .ingress.enabled (not .ingress.annotations) }}
{{- $errors = append $errors "gateway.ingress: with gateway.tls the Service speaks TLS, and the controller sends plain HTTP; tell it in gateway.ingress.annotations, e.g. nginx.ingress.kubernetes.io/backend-protocol: HTTPS, or end TLS at the Ingress and leave gateway.tls.secretName empty" }}
{{- end }}
{{- if and .tls.secretName .httpRoute.enabled (not (contains "BackendTLSPolicy" (toYaml $.Values.extraObjects))) }}
{{- $errors = append $errors "gateway.httpRoute: with gateway.tls the Service speaks TLS, and the Gateway sends plain HTTP; add a BackendTLSPolicy to extraObjects, or end TLS at the Gateway and leave gateway.tls.secretName empty" }}
{{- end }}
{{- if lt (int (include "proserve.gatewayGrace" $)) 1 }}
{{- $errors = append $errors (printf "gateway.terminationGracePeriodSeconds: %d leaves open requests no time beside preStopSeconds %d and 10 s to close; set it to %d or more" (int .terminationGracePeriodSeconds) (int .preStopSeconds) (add (int .preStopSeconds) 11)) }}
{{- end }}
{{- end }}
{{- if and .Values.monitoring.serviceMonitor.enabled .Values.networkPolicy.enabled (not .Values.networkPolicy.scraperNamespace) }}
{{- $errors = append $errors "monitoring.serviceMonitor: enabled, and the network policies let nobody read metrics of engines; name the namespace of Prometheus in networkPolicy.scraperNamespace" }}
{{- end }}
{{- with .Values.test.apiKeySecret }}
{{- if ne (empty .name) (empty .key) }}
{{- $errors = append $errors "test.apiKeySecret: name and key belong together; give both or none" }}
{{- end }}
{{- end }}
{{- if and (not (.Capabilities.APIVersions.Has "proserve.dev/v1alpha1")) (contains "proserve.dev/" (toYaml .Values.extraObjects)) }}
{{- $errors = append $errors "extraObjects: the cluster does not know the kinds of proserve.dev yet, this release brings them; install it without these objects and add them with `helm upgrade`" }}
{{- end }}
{{- with $errors }}
{{- fail (printf "\n%d error(s) in the values:\n  - %s" (len .) (join "\n  - " .)) }}
{{- end }}
{{- end }}
