{{- define "caravan.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" }}
{{- end }}

{{- /* Short enough for a model's objects: a StatefulSet's name may have 52 characters, a Job's 63. */}}
{{- define "caravan.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 24 | trimSuffix "-" }}
{{- else }}
{{- $name := include "caravan.name" . }}
{{- if contains $name .Release.Name }}
{{- .Release.Name | trunc 24 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name $name | trunc 24 | trimSuffix "-" }}
{{- end }}
{{- end }}
{{- end }}

{{- /* Labels of an object: those it is selected by, then its `own`, then those of all; the component is given. */}}
{{- define "caravan.labels" -}}
{{- $chart := dict
  "app.kubernetes.io/version" .root.Chart.AppVersion
  "app.kubernetes.io/managed-by" .root.Release.Service
  "helm.sh/chart" (printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-") }}
{{- toYaml (merge (include "caravan.selector" . | fromYaml) (default dict .own) .root.Values.commonLabels $chart) }}
{{- end }}

{{- define "caravan.selector" -}}
app.kubernetes.io/name: {{ include "caravan.name" .root | quote }}
app.kubernetes.io/instance: {{ .root.Release.Name | quote }}
app.kubernetes.io/component: {{ .component | quote }}
{{- with .slug }}
caravan/model: {{ . | quote }}
{{- end }}
{{- end }}

{{- define "caravan.metadata" -}}
name: {{ .name | quote }}
namespace: {{ .root.Release.Namespace | quote }}
labels:
  {{- include "caravan.labels" . | nindent 2 }}
{{- with .root.Values.commonAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "caravan.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "caravan.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- define "caravan.image" -}}
{{- $tag := default (printf "%s-cpu" .Chart.AppVersion) .Values.image.tag }}
{{- with .Values.image }}
{{- if .digest }}{{ printf "%s@%s" .repository .digest }}{{ else }}{{ printf "%s:%s" .repository $tag }}{{ end }}
{{- end }}
{{- end }}

{{- define "caravan.gateway.image" -}}
{{- with .Values.gateway.image }}
{{- if .digest }}{{ printf "%s@%s" .repository .digest }}{{ else }}{{ printf "%s:%s" .repository .tag }}{{ end }}
{{- end }}
{{- end }}

{{- /* A model with what it leaves out: (dict "root" $ "given" model) -> YAML. */}}
{{- define "caravan.model" -}}
{{- $model := mustMergeOverwrite (deepCopy .root.Values.modelDefaults) (deepCopy .given) }}
{{- if hasKey .given "podDisruptionBudget" }}
{{- $_ := set $model "podDisruptionBudget" .given.podDisruptionBudget }}
{{- end }}
{{- $_ := set $model "slug" (include "caravan.model.slug" .given) }}
{{- toYaml $model }}
{{- end }}

{{- /* The part of object names that stands for a model. */}}
{{- define "caravan.model.slug" -}}
{{- default (regexReplaceAll "[^a-z0-9]+" (lower .name) "-") .slug | trunc 20 | trimAll "-" }}
{{- end }}

{{- /* What the schema cannot say: models must not share objects, nor a claim that only one node may write. */}}
{{- define "caravan.check" -}}
{{- $seen := dict }}
{{- range list "deny" "gateway" "gateway-metrics" "models" "fetch" "test" "test-chat" "keys" "hub" "dashboard" }}
{{- $_ := set $seen . "a part of the chart" }}
{{- end }}
{{- range .Values.models }}
{{- $slug := include "caravan.model.slug" . }}
{{- if not $slug }}
{{- fail (printf "model %s has no letter or digit to name objects by: give it a slug" .name) }}
{{- end }}
{{- if hasKey $seen $slug }}
{{- fail (printf "model %s would be named %s, as is %s: give it a slug" .name $slug (get $seen $slug)) }}
{{- end }}
{{- $_ := set $seen $slug .name }}
{{- $model := include "caravan.model" (dict "root" $ "given" .) | fromYaml }}
{{- $scale := $model.autoscaling }}
{{- if and (ne $scale.kind "none") (not $scale.queueDepth) (not $scale.firstTokenSeconds) }}
{{- fail (printf "model %s scales on nothing: set queueDepth or firstTokenSeconds" .name) }}
{{- end }}
{{- $many := or (gt (int $model.replicas) 1) (gt (int $model.nodes) 1) (ne $model.autoscaling.kind "none") }}
{{- if and $many (eq $model.cache.mode "shared") (not $model.cache.existingClaim) (ne $model.cache.accessMode "ReadWriteMany") }}
{{- fail (printf "the pods of model %s share a claim: it needs the access mode ReadWriteMany" .name) }}
{{- end }}
{{- end }}
{{- end }}

{{- define "caravan.podSecurityContext" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "caravan.securityContext" -}}
allowPrivilegeEscalation: false
capabilities:
  drop: [ALL]
privileged: false
readOnlyRootFilesystem: true
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- /* Where pods go: (dict "root" $ "spec" values "component" c "slug" s). */}}
{{- define "caravan.placement" -}}
{{- with .spec.priorityClassName }}
priorityClassName: {{ . | quote }}
{{- end }}
{{- with .spec.runtimeClassName }}
runtimeClassName: {{ . | quote }}
{{- end }}
{{- with .spec.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .spec.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .spec.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
topologySpreadConstraints:
{{- with .spec.topologySpreadConstraints }}
  {{- toYaml . | nindent 2 }}
{{- else }}
  - maxSkew: 1
    topologyKey: kubernetes.io/hostname
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "caravan.selector" . | nindent 8 }}
{{- end }}
{{- end }}

{{- /* Settings that every server shares, as environment. */}}
{{- define "caravan.env" -}}
- name: HOME
  value: /tmp
- name: CARAVAN_CONFIG
  value: /etc/caravan/caravan.yaml
{{- if include "caravan.keysSecret" . }}
- name: CARAVAN_KEYS_FILE
  value: /etc/caravan-keys
- name: CARAVAN_OPEN_PATHS
  value: {{ ternary "/,/api/version,/metrics" "/,/api/version" .Values.keys.openMetrics | quote }}
{{- end }}
{{- with .Values.otlpEndpoint }}
- name: OTEL_EXPORTER_OTLP_ENDPOINT
  value: {{ . | quote }}
{{- end }}
{{- end }}

{{- define "caravan.keysSecret" -}}
{{- if .Values.keys.existingSecret }}
{{- .Values.keys.existingSecret }}
{{- else if .Values.keys.data }}
{{- printf "%s-keys" (include "caravan.fullname" .) }}
{{- end }}
{{- end }}

{{- define "caravan.hubSecret" -}}
{{- if .Values.hub.existingSecret }}
{{- .Values.hub.existingSecret }}
{{- else if .Values.hub.token }}
{{- printf "%s-hub" (include "caravan.fullname" .) }}
{{- end }}
{{- end }}

{{- /* Time from the wish to stop a pod until it is killed: notice, streams, last words. */}}
{{- define "caravan.terminationGracePeriodSeconds" -}}
{{- add (int .Values.shutdown.gracePeriodSeconds) (mul 2 (int .Values.shutdown.drainSeconds)) 20 }}
{{- end }}

{{- /* A model's name as metrics have it, with the tag that it has when none is given. */}}
{{- define "caravan.model.served" -}}
{{- $last := last (splitList "/" .) }}
{{- if contains ":" $last }}{{ . }}{{ else }}{{ printf "%s:latest" . }}{{ end }}
{{- end }}

{{- /* The server beside Envoy that lists what all others have. The kubelet asks it for its health. */}}
{{- define "caravan.directory.config" -}}
{{- $peers := list }}
{{- range .Values.models }}
{{- $peers = append $peers (printf "http://%s-%s:11434" (include "caravan.fullname" $) (include "caravan.model.slug" .)) }}
{{- end }}
{{- $own := dict
  "host" "0.0.0.0:11435"
  "peers" $peers
  "grace_period" (int .Values.shutdown.gracePeriodSeconds)
  "max_body_bytes" (int .Values.gateway.maxBodyBytes)
}}
{{- toYaml (merge $own .Values.settings) }}
{{- end }}

{{- define "caravan.internet" -}}
- ports:
    - {port: 443, protocol: TCP}
    - {port: 80, protocol: TCP}
  to:
    - ipBlock: {cidr: 0.0.0.0/0}
    - ipBlock: {cidr: "::/0"}
{{- end }}

{{- /* A disruption budget: (dict "budget" values "meta" m). What is given decides, also where it is 0. */}}
{{- define "caravan.budget" -}}
{{- if ne (toString .budget.enabled) "false" }}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  {{- include "caravan.metadata" .meta | nindent 2 }}
spec:
  {{- if hasKey .budget "minAvailable" }}
  minAvailable: {{ .budget.minAvailable }}
  {{- else if hasKey .budget "maxUnavailable" }}
  maxUnavailable: {{ .budget.maxUnavailable }}
  {{- else }}
  maxUnavailable: 1
  {{- end }}
  {{- with .budget.unhealthyPodEvictionPolicy }}
  unhealthyPodEvictionPolicy: {{ . }}
  {{- end }}
  selector:
    matchLabels:
      {{- include "caravan.selector" .meta | nindent 6 }}
{{- end }}
{{- end }}
