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

{{- /* Labels of pods: without the chart's version, since a changed label restarts every pod. */}}
{{- define "caravan.podLabels" -}}
{{- toYaml (merge (include "caravan.selector" . | fromYaml) (default dict .own) .root.Values.commonLabels (dict "app.kubernetes.io/managed-by" .root.Release.Service)) }}
{{- end }}

{{- define "caravan.selector" -}}
app.kubernetes.io/name: {{ include "caravan.name" .root | quote }}
app.kubernetes.io/instance: {{ .root.Release.Name | quote }}
app.kubernetes.io/component: {{ .component | quote }}
{{- with .slug }}
caravan/model: {{ . | quote }}
{{- end }}
{{- end }}

{{- /* A selector of all pods that serve models. */}}
{{- define "caravan.servers" -}}
{{- if .Values.pools -}}
matchLabels:
  app.kubernetes.io/name: {{ include "caravan.name" . | quote }}
  app.kubernetes.io/instance: {{ .Release.Name | quote }}
matchExpressions:
  - {key: app.kubernetes.io/component, operator: In, values: [model, pool]}
{{- else -}}
matchLabels:
  {{- include "caravan.selector" (dict "root" . "component" "model") | nindent 2 }}
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

{{- /* What serves, with what it leaves out: a model, which has a source, or a pool: (dict "root" $ "given" g) -> YAML. */}}
{{- define "caravan.workload" -}}
{{- include (hasKey .given "source" | ternary "caravan.model" "caravan.pool") . }}
{{- end }}

{{- define "caravan.model" -}}
{{- include "caravan.filled" (merge (dict "defaults" (deepCopy .root.Values.modelDefaults) "component" "model") .) }}
{{- end }}

{{- /* A pool's pods are as a model's, on one node and without a model or cache of their own. */}}
{{- define "caravan.pool" -}}
{{- $defaults := omit (deepCopy .root.Values.modelDefaults) "aliases" }}
{{- $defaults = mustMergeOverwrite $defaults (dict "nodes" 1 "cache" (dict "mode" "store")) (deepCopy .root.Values.poolDefaults) }}
{{- include "caravan.filled" (merge (dict "defaults" $defaults "component" "pool") .) }}
{{- end }}

{{- /* (dict "root" $ "given" values "defaults" what they leave out "component" c) -> YAML. */}}
{{- define "caravan.filled" -}}
{{- $model := mustMergeOverwrite .defaults (deepCopy .given) }}
{{- if hasKey .given "podDisruptionBudget" }}
{{- $_ := set $model "podDisruptionBudget" .given.podDisruptionBudget }}
{{- end }}
{{- /* Resources are taken whole: merged with others, a limit could be below its request, or not be meant at all. */}}
{{- with .given.resources }}
{{- $_ := set $model "resources" . }}
{{- end }}
{{- with (default dict .given.cache).resources }}
{{- $_ := set $model.cache "resources" . }}
{{- end }}
{{- $_ := set $model "resources" (default (dict "requests" (dict "cpu" "1" "memory" "3Gi") "limits" (dict "cpu" "4" "memory" "6Gi")) $model.resources) }}
{{- $_ := set $model.cache "resources" (default (dict "requests" (dict "cpu" "500m" "memory" "2Gi") "limits" (dict "cpu" "4" "memory" "6Gi")) $model.cache.resources) }}
{{- $_ := set $model.cache "size" (default (include "caravan.model.size" .given) $model.cache.size) }}
{{- $_ := set $model "slug" (include "caravan.model.slug" .given) }}
{{- $_ := set $model "component" .component }}
{{- toYaml $model }}
{{- end }}

{{- /* The part of object names that stands for a model. */}}
{{- define "caravan.model.slug" -}}
{{- default (regexReplaceAll "[^a-z0-9]+" (lower .name) "-") .slug | trunc 20 | trimAll "-" }}
{{- end }}

{{- /* Thousand millions of parameters that a model's name or source tells, the most of them; 0 where none does. */}}
{{- define "caravan.model.billions" -}}
{{- $most := 0.0 }}
{{- range regexFindAll "(?:[0-9]+x)?[0-9]+(?:[.][0-9]+)?b(?:[^a-z0-9]|$)" (lower (printf "%s %s" .name .source)) -1 }}
{{- $number := 1.0 }}
{{- range splitList "x" (regexReplaceAll "b[^a-z0-9]*$" . "") }}
{{- $number = mulf $number (float64 .) }}
{{- end }}
{{- $most = maxf $most $number }}
{{- end }}
{{- $most }}
{{- end }}

{{- /* Room for a model's files: two bytes a parameter and some to convert them, 10Gi where nothing tells how many. */}}
{{- define "caravan.model.size" -}}
{{- printf "%dGi" (int (add 10 (ceil (mulf 2.5 (include "caravan.model.billions" . | float64))))) }}
{{- end }}

{{- /* A quantity of Kubernetes as a number. */}}
{{- define "caravan.number" -}}
{{- $text := toString . }}
{{- $unit := regexFind "[A-Za-z]*$" $text }}
{{- $factors := dict "m" 0.001 "k" 1e3 "M" 1e6 "G" 1e9 "T" 1e12 "P" 1e15 "E" 1e18 "Ki" 1024.0 "Mi" 1048576.0 "Gi" 1073741824.0 "Ti" 1099511627776.0 "Pi" 1125899906842624.0 "Ei" 1152921504606846976.0 }}
{{- mulf (float64 (trimSuffix $unit $text)) (default 1.0 (get $factors $unit)) }}
{{- end }}

{{- /* Refuses a request above its limit: (dict "of" whose "resources" r). */}}
{{- define "caravan.checkResources" -}}
{{- $limits := default dict .resources.limits }}
{{- range $name, $request := default dict .resources.requests }}
{{- if hasKey $limits $name }}
{{- $limit := get $limits $name }}
{{- if gt (include "caravan.number" $request | float64) (include "caravan.number" $limit | float64) }}
{{- fail (printf "%s requests more %s than its limit: %v of %v" $.of $name $request $limit) }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{- /* Refuses a mount without a volume and a volume that the chart has itself. */}}
{{- define "caravan.checkVolumes" -}}
{{- $own := list "config" "tmp" "shm" "cache" "keys" }}
{{- $there := list "config" "tmp" "cache" }}
{{- if eq .model.component "pool" }}
{{- $own = append $own "store" }}
{{- $there = list "config" "tmp" "store" }}
{{- end }}
{{- range .model.extraVolumes }}
{{- if has .name $own }}
{{- fail (printf "%s has a volume named %s, as the chart has" $.what .name) }}
{{- end }}
{{- $there = append $there .name }}
{{- end }}
{{- range .model.extraVolumeMounts }}
{{- if not (has .name $there) }}
{{- fail (printf "%s mounts a volume that is not there: %s" $.what .name) }}
{{- end }}
{{- end }}
{{- end }}

{{- /* Refuses what a server with several front ends refuses at its start (app/serve.py): the arguments of checkPod. */}}
{{- define "caravan.checkFrontEnds" -}}
{{- $count := int .spec.frontEnds }}
{{- if gt $count 1 }}
{{- $what := printf "%s has %d front ends" .what $count }}
{{- if gt (int (default 1 .spec.nodes)) 1 }}
{{- fail (printf "%s and spans nodes, which goes with one alone: set frontEnds to 1" $what) }}
{{- end }}
{{- range $name := list "data_parallel_size" "nnodes" }}
{{- $size := get (default dict $.spec.engine) $name }}
{{- if and $size (ne (toString $size) "1") }}
{{- fail (printf "%s and %s of %v, which goes with one alone: set frontEnds to 1" $what $name $size) }}
{{- end }}
{{- end }}
{{- range prepend (default list .spec.aliases) .spec }}
{{- if .adapter }}
{{- fail (printf "%s and the adapter of %s, which goes with one alone: set frontEnds to 1" $what .name) }}
{{- end }}
{{- end }}
{{- $settings := mustMergeOverwrite (deepCopy .root.Values.settings) (default dict .spec.settings) }}
{{- if and $settings.sleep_memory (ne (toString $settings.sleep_memory) "0") }}
{{- fail (printf "%s and sleep_memory, which goes with one alone: set frontEnds to 1" $what) }}
{{- end }}
{{- $tools := default list $settings.tools }}
{{- if kindIs "string" $tools }}
{{- $tools = splitList "," (nospace $tools) }}
{{- end }}
{{- if and (has "webview" $tools) (lt (int (default 4 $settings.browser_pages)) $count) }}
{{- fail (printf "%s, and each needs a page of the browser: set settings.browser_pages to %d or more" $what $count) }}
{{- end }}
{{- end }}
{{- end }}

{{- /* The pools, the one that takes every name as the last: the first that takes a name has it. */}}
{{- define "caravan.pools.inOrder" -}}
{{- $named := list }}
{{- $open := list }}
{{- range .Values.pools }}
{{- $pool := include "caravan.pool" (dict "root" $ "given" .) | fromYaml }}
{{- $row := dict "slug" $pool.slug "names" $pool.names "podsPerModel" (int $pool.podsPerModel) }}
{{- if $pool.names }}
{{- $named = append $named $row }}
{{- else }}
{{- $open = append $open $row }}
{{- end }}
{{- end }}
{{- toYaml (concat $named $open) }}
{{- end }}

{{- /* The name of the first model; nothing where there are pools alone. */}}
{{- define "caravan.firstModel" -}}
{{- with .Values.models }}
{{- (first .).name }}
{{- end }}
{{- end }}

{{- /* What a pod needs for itself, models and pools alike: (dict "root" $ "what" "model a" "spec" merged). */}}
{{- define "caravan.checkPod" -}}
{{- include "caravan.checkFrontEnds" . }}
{{- include "caravan.checkResources" (dict "of" .what "resources" .spec.resources) }}
{{- include "caravan.checkVolumes" (dict "what" .what "model" .spec) }}
{{- $scale := .spec.autoscaling }}
{{- if and (ne $scale.kind "none") (not $scale.queueDepth) (not $scale.firstTokenSeconds) }}
{{- fail (printf "%s scales on nothing: set queueDepth or firstTokenSeconds" .what) }}
{{- end }}
{{- end }}

{{- /* Pools: one store for all, on a claim that all of their pods can write to. `seen` has the names that are taken. */}}
{{- define "caravan.checkPools" -}}
{{- $pods := 0 }}
{{- $open := list }}
{{- range .root.Values.pools }}
{{- $pool := include "caravan.pool" (dict "root" $.root "given" .) | fromYaml }}
{{- $what := printf "pool %s" .name }}
{{- if hasKey $.seen $pool.slug }}
{{- fail (printf "%s would be named %s, as is %s: give it another name" $what $pool.slug (get $.seen $pool.slug)) }}
{{- end }}
{{- $_ := set $.seen $pool.slug $what }}
{{- include "caravan.checkPod" (dict "root" $.root "what" $what "spec" $pool) }}
{{- if and (ne $pool.autoscaling.kind "none") (lt (int $pool.autoscaling.minReplicas) 1) }}
{{- fail (printf "%s would scale to no pod, after which no request could bring one back: set minReplicas to 1 or more" $what) }}
{{- end }}
{{- if not $pool.names }}
{{- $open = append $open .name }}
{{- end }}
{{- $pods = add $pods (ne $pool.autoscaling.kind "none" | ternary (max 2 (int $pool.autoscaling.maxReplicas)) (max 1 (int $pool.replicas))) }}
{{- end }}
{{- if gt (len $open) 1 }}
{{- fail (printf "the pools %s all take every name: give all but one the names that it takes" (join " and " $open)) }}
{{- end }}
{{- $store := .root.Values.store }}
{{- if and (gt (int $pods) 1) (not $store.existingClaim) (ne $store.accessMode "ReadWriteMany") }}
{{- fail (printf "the %d pods of the pools share the store: its claim needs the access mode ReadWriteMany, not %s" (int $pods) $store.accessMode) }}
{{- end }}
{{- end }}

{{- /* What the schema cannot say: models must not share objects, nor a claim that only one node may write. */}}
{{- define "caravan.check" -}}
{{- include "caravan.checkResources" (dict "of" "the gateway" "resources" .Values.gateway.resources) }}
{{- include "caravan.checkResources" (dict "of" "the gateway's directory" "resources" .Values.gateway.directory.resources) }}
{{- include "caravan.checkResources" (dict "of" "the load test" "resources" .Values.loadtest.resources) }}
{{- include "caravan.checkResources" (dict "of" "the browser" "resources" .Values.browser.resources) }}
{{- $seen := dict }}
{{- range list "deny" "gateway" "gateway-metrics" "models" "fetch" "test" "test-chat" "keys" "hub" "dashboard" "browser" "browser-servers" }}
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
{{- if gt (int $model.nodes) 1 }}
{{- $set := printf "%s-set" $slug }}
{{- if hasKey $seen $set }}
{{- fail (printf "model %s would be named %s, as the nodes of %s: give it a slug" (get $seen $set) $set .name) }}
{{- end }}
{{- $_ := set $seen $set .name }}
{{- if eq $model.cache.mode "perPod" }}
{{- fail (printf "model %s spans nodes, whose pods have no claims of their own: use the cache mode shared or ephemeral" .name) }}
{{- end }}
{{- end }}
{{- include "caravan.checkPod" (dict "root" $ "what" (printf "model %s" .name) "spec" $model) }}
{{- include "caravan.checkResources" (dict "of" (printf "the fetch of model %s" .name) "resources" $model.cache.resources) }}
{{- if gt (divf (include "caravan.model.billions" . | float64) 2.0) (divf (include "caravan.number" $model.cache.size | float64) 1e9) }}
{{- fail (printf "model %s does not fit its cache: %s is less than half a byte for each of its parameters" .name $model.cache.size) }}
{{- end }}
{{- $many := or (gt (int $model.replicas) 1) (gt (int $model.nodes) 1) (ne $model.autoscaling.kind "none") }}
{{- if and $many (eq $model.cache.mode "shared") (not $model.cache.existingClaim) (ne $model.cache.accessMode "ReadWriteMany") }}
{{- fail (printf "the pods of model %s share a claim: it needs the access mode ReadWriteMany" .name) }}
{{- end }}
{{- end }}
{{- if .Values.pools }}
{{- if hasKey $seen "store" }}
{{- fail (printf "model %s would be named store, as the claim of the pools: give it a slug" (get $seen "store")) }}
{{- end }}
{{- $_ := set $seen "store" "the claim of the pools" }}
{{- include "caravan.checkPools" (dict "root" . "seen" $seen) }}
{{- end }}
{{- if and .Values.loadtest.enabled (not .Values.models) (not .Values.loadtest.options.model) }}
{{- fail "the load test has no model to ask: set loadtest.options.model to one of the store" }}
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
{{- $settings := .Values.settings }}
{{- if .Values.pools }}
{{- $stores := list }}
{{- range .Values.pools }}
{{- $stores = append $stores (printf "http://%s-%s:11434" (include "caravan.fullname" $) (include "caravan.model.slug" .)) }}
{{- end }}
{{- /* What it made would be seen by nobody: the store is the pools'. */}}
{{- $settings = mustMergeOverwrite (deepCopy $settings) (dict "models" list "peer_pools" $stores "pull" false) }}
{{- end }}
{{- toYaml (merge $own $settings) }}
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
