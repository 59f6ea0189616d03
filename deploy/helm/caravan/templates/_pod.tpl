{{- /* Pod of a model: (dict "root" $ "model" merged "role" "server"|"leader"|"worker"). */}}
{{- define "caravan.model.pod" -}}
{{- $root := .root }}
{{- $model := .model }}
{{- $where := dict "root" $root "component" $model.component "slug" $model.slug "spec" $model }}
metadata:
  labels:
    {{- include "caravan.podLabels" (merge (dict "own" $model.podLabels) $where) | nindent 4 }}
  annotations:
    {{- /* Of what is read at the start; servers read their keys again by themselves. */}}
    {{- $sums := dict "checksum/config" (include "caravan.model.config" . | sha256sum) }}
    {{- toYaml (merge $sums $model.podAnnotations) | nindent 4 }}
spec:
  serviceAccountName: {{ include "caravan.serviceAccountName" $root | quote }}
  automountServiceAccountToken: false
  enableServiceLinks: false
  securityContext:
    {{- include "caravan.podSecurityContext" $root | nindent 4 }}
  terminationGracePeriodSeconds: {{ include "caravan.terminationGracePeriodSeconds" $root }}
  {{- with $root.Values.imagePullSecrets }}
  imagePullSecrets:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- include "caravan.placement" $where | nindent 2 }}
  {{- $pooled := eq $model.component "pool" }}
  {{- if or (not $pooled) $model.initContainers }}
  initContainers:
    {{- if $pooled }}
    {{- else if eq $model.cache.mode "shared" }}
    - {{- include "caravan.model.wait" . | nindent 6 }}
    {{- else }}
    - {{- include "caravan.model.fetch" . | nindent 6 }}
    {{- end }}
    {{- with $model.initContainers }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- end }}
  containers:
    {{- if eq .role "worker" }}
    - {{- include "caravan.model.worker" . | nindent 6 }}
    {{- else }}
    - {{- include "caravan.model.server" . | nindent 6 }}
    {{- end }}
    {{- with $model.sidecars }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  volumes:
    {{- include "caravan.model.volumes" . | nindent 4 }}
{{- end }}

{{- /* What both the server and its workers have. */}}
{{- define "caravan.model.container" -}}
image: {{ include "caravan.image" .root | quote }}
imagePullPolicy: {{ .root.Values.image.pullPolicy }}
securityContext:
  {{- include "caravan.securityContext" .root | nindent 2 }}
{{- end }}

{{- define "caravan.model.env" -}}
{{- include "caravan.env" .root }}
{{- if eq .model.component "pool" }}
# All on the claim: what one pod has pulled or converted, every other one serves.
- name: CARAVAN_MODELS_DIR
  value: {{ printf "/store/%s" .root.Values.store.folder | quote }}
- name: CARAVAN_CACHE_DIR
  value: /store/cache
- name: HF_HOME
  value: /store/huggingface
# A pod's own: what is compiled is code, which no other pod is to run.
- name: VLLM_CACHE_ROOT
  value: /tmp/server/vllm
- name: TRITON_CACHE_DIR
  value: /tmp/server/triton
- name: CUDA_CACHE_PATH
  value: /tmp/server/cuda
- name: FLASHINFER_WORKSPACE_BASE
  value: /tmp/server/flashinfer
{{- else }}
- name: CARAVAN_CACHE_DIR
  value: /cache
- name: HF_HOME
  value: /cache/huggingface
{{- end }}
{{- end }}

{{- define "caravan.hubToken" -}}
{{- with include "caravan.hubSecret" . }}
- name: HF_TOKEN
  valueFrom:
    secretKeyRef:
      name: {{ . | quote }}
      key: {{ $.Values.hub.secretKey | quote }}
{{- end }}
{{- end }}

{{- /* Of each node of a model that spans several. */}}
{{- define "caravan.model.node" -}}
# The models once more, since the kubelet fills in the leader's address here and not in a file.
- name: CARAVAN_MODELS
  value: {{ get (include "caravan.model.config" . | fromYaml) "models" | toJson | quote }}
- name: VLLM_HOST_IP
  valueFrom: {fieldRef: {fieldPath: status.podIP}}
{{- end }}

{{- define "caravan.model.server" -}}
name: server
{{ include "caravan.model.container" . }}
args: [serve]
env:
  {{- include "caravan.model.env" . | nindent 2 }}
  {{- if and (eq .model.component "pool") .model.pull }}
  {{- with include "caravan.hubToken" .root }}
  {{- trim . | nindent 2 }}
  {{- end }}
  {{- else }}
  - name: HF_HUB_OFFLINE
    value: "1"
  {{- end }}
  {{- if eq .role "leader" }}
  {{- include "caravan.model.node" . | nindent 2 }}
  {{- end }}
  {{- with .model.extraEnv }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with .model.envFrom }}
envFrom:
  {{- toYaml . | nindent 2 }}
{{- end }}
ports:
  - name: http
    containerPort: 11434
    protocol: TCP
startupProbe:
  httpGet: {path: /startupz, port: http}
  periodSeconds: 5
  timeoutSeconds: 5
  failureThreshold: {{ div (add (int .model.loadTimeoutSeconds) 64) 5 }}
readinessProbe:
  httpGet: {path: /readyz, port: http}
  periodSeconds: 3
  timeoutSeconds: 3
  failureThreshold: 1
livenessProbe:
  httpGet: {path: /livez, port: http}
  periodSeconds: 10
  timeoutSeconds: 10
  failureThreshold: 6
lifecycle:
  preStop:
    exec:
      command: [sleep, {{ .root.Values.shutdown.drainSeconds | quote }}]
resources:
  {{- toYaml .model.resources | nindent 2 }}
volumeMounts:
  {{- include "caravan.model.mounts" . | nindent 2 }}
{{- end }}

{{- /* A further node of a model's replica: it has the leader's settings, and so its engine arguments. */}}
{{- define "caravan.model.worker" -}}
name: worker
{{ include "caravan.model.container" . }}
args: [worker, --node-rank=$(LWS_WORKER_INDEX)]
env:
  {{- include "caravan.model.env" . | nindent 2 }}
  # As Caravan sets them for its own processes.
  - name: VLLM_CACHE_ROOT
    value: /cache/server/vllm
  - name: TRITON_CACHE_DIR
    value: /cache/server/triton
  - name: CUDA_CACHE_PATH
    value: /cache/server/cuda
  - name: FLASHINFER_WORKSPACE_BASE
    value: /cache/server/flashinfer
  - name: HF_HUB_OFFLINE
    value: "1"
  {{- include "caravan.model.node" . | nindent 2 }}
  {{- with .model.extraEnv }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with .model.envFrom }}
envFrom:
  {{- toYaml . | nindent 2 }}
{{- end }}
resources:
  {{- toYaml .model.resources | nindent 2 }}
volumeMounts:
  {{- include "caravan.model.mounts" . | nindent 2 }}
{{- end }}

{{- define "caravan.model.mounts" -}}
- {name: config, mountPath: /etc/caravan, readOnly: true}
{{- if eq .model.component "pool" }}
- {name: store, mountPath: /store}
{{- else }}
- {name: cache, mountPath: /cache, readOnly: true}
{{- /* What engines compile and took outlives the pod; a server can still change no model. */}}
- {name: cache, mountPath: /cache/server, subPath: server}
{{- end }}
- {name: tmp, mountPath: /tmp}
- {name: shm, mountPath: /dev/shm}
{{- if include "caravan.keysSecret" .root }}
- {name: keys, mountPath: /etc/caravan-keys, readOnly: true}
{{- end }}
{{- with .model.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- /* Fetches and converts the model's files, with a log of its own. */}}
{{- define "caravan.model.fetch" -}}
name: fetch
{{ include "caravan.model.container" . }}
{{- if eq .model.cache.mode "shared" }}
command: [tini, --, sh, -c, {{ printf "caravan fetch && touch %s" (include "caravan.model.fetched" .) | quote }}]
{{- else }}
args: [fetch]
{{- end }}
env:
  - name: HOME
    value: /tmp
  - name: CARAVAN_CONFIG
    value: /etc/caravan/caravan.yaml
  - name: CARAVAN_CACHE_DIR
    value: /cache
  - name: HF_HOME
    value: /cache/huggingface
  {{- with include "caravan.hubToken" .root }}
  {{- trim . | nindent 2 }}
  {{- end }}
  {{- with .model.extraEnv }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with .model.envFrom }}
envFrom:
  {{- toYaml . | nindent 2 }}
{{- end }}
resources:
  {{- toYaml .model.cache.resources | nindent 2 }}
volumeMounts:
  - {name: config, mountPath: /etc/caravan, readOnly: true}
  - {name: cache, mountPath: /cache}
  - {name: tmp, mountPath: /tmp}
  {{- with .model.extraVolumeMounts }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}

{{- /* Pod of the Job that fills a shared cache; `meta` has its labels. */}}
{{- define "caravan.model.fetch.pod" -}}
metadata:
  labels:
    {{- include "caravan.podLabels" .meta | nindent 4 }}
spec:
  restartPolicy: OnFailure
  serviceAccountName: {{ include "caravan.serviceAccountName" .root | quote }}
  automountServiceAccountToken: false
  enableServiceLinks: false
  securityContext:
    {{- include "caravan.podSecurityContext" .root | nindent 4 }}
  {{- with .root.Values.imagePullSecrets }}
  imagePullSecrets:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .model.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .model.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  containers:
    - {{- include "caravan.model.fetch" . | nindent 6 }}
  volumes:
    {{- include "caravan.model.fetch.volumes" . | nindent 4 }}
{{- end }}

{{- /* The file that says that a shared cache holds the model's files. Nothing but their source makes them others. */}}
{{- define "caravan.model.fetched" -}}
/cache/.fetched-{{ .model.source | sha256sum | trunc 8 }}
{{- end }}

{{- /* Waits for the Job that fills a shared cache: a server that finds nothing would be restarted ever more slowly. */}}
{{- define "caravan.model.wait" -}}
name: wait
{{ include "caravan.model.container" . }}
# What it says at its end is the pod's status; then it waits anew.
terminationMessagePolicy: FallbackToLogsOnError
command:
  - tini
  - --
  - sh
  - -c
  - |
    left={{ int .model.cache.fetchTimeoutSeconds }}
    until [ -e {{ include "caravan.model.fetched" . }} ]; do
      if [ "$left" -le 0 ]; then
        echo "the cache has not been filled in {{ int .model.cache.fetchTimeoutSeconds }} s: see what fetches: kubectl logs -l app.kubernetes.io/component=fetch,caravan/model={{ .model.slug }}" >&2
        exit 1
      fi
      left=$((left - 1))
      sleep 1
    done
resources:
  requests: {cpu: 10m, memory: 16Mi}
  limits: {cpu: 100m, memory: 64Mi}
volumeMounts:
  - {name: cache, mountPath: /cache, readOnly: true}
{{- end }}

{{- define "caravan.model.volumes" -}}
{{- include "caravan.model.fetch.volumes" . }}
- name: shm
  emptyDir: {medium: Memory, sizeLimit: {{ .model.sharedMemory }}}
{{- with include "caravan.keysSecret" .root }}
- name: keys
  secret:
    secretName: {{ . | quote }}
{{- end }}
{{- end }}

{{- /* Volumes of what fetches, which needs no keys and no shared memory. */}}
{{- define "caravan.model.fetch.volumes" -}}
- name: config
  configMap:
    name: {{ .name | quote }}
- name: tmp
  emptyDir: {sizeLimit: {{ .model.temporarySize }}}
{{- if eq .model.cache.mode "ephemeral" }}
- name: cache
  emptyDir: {sizeLimit: {{ .model.cache.size }}}
{{- else if eq .model.cache.mode "shared" }}
- name: cache
  persistentVolumeClaim:
    claimName: {{ default (printf "%s-cache" .name) .model.cache.existingClaim | quote }}
{{- else if eq .model.cache.mode "store" }}
- name: store
  persistentVolumeClaim:
    claimName: {{ default (printf "%s-store" (include "caravan.fullname" .root)) .root.Values.store.existingClaim | quote }}
{{- end }}
{{- with .model.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- /* Caravan's configuration file for one workload. */}}
{{- define "caravan.model.config" -}}
{{- $keys := list "name" "source" "system" "template" "chat_template" "parameters" "messages" "license" "tool_parser" "reasoning_parser" "engine" "adapter" }}
{{- $model := dict }}
{{- range $keys }}
{{- if hasKey $.model . }}
{{- $_ := set $model . (get $.model .) }}
{{- end }}
{{- end }}
{{- if gt (int .model.nodes) 1 }}
{{- $parts := dict "nnodes" (int .model.nodes) "node_rank" 0 "master_addr" "$(LWS_LEADER_ADDRESS)" }}
{{- $_ := set $model "engine" (merge $parts (default dict .model.engine)) }}
{{- end }}
{{- $models := list $model }}
{{- range .model.aliases }}
{{- $models = append $models (merge (dict "source" $.model.name) .) }}
{{- end }}
{{- $settings := .root.Values.settings }}
{{- if eq .model.component "pool" }}
{{- $models = list }}
{{- /* Which model is needed first only requests tell. */}}
{{- $settings = mustMergeOverwrite (deepCopy $settings) .model.settings (dict "preload" false "pull" .model.pull) }}
{{- end }}
{{- $own := dict
  "host" "0.0.0.0:11434"
  "models" $models
  "load_total_timeout" (int .model.loadTimeoutSeconds)
  "grace_period" (int .root.Values.shutdown.gracePeriodSeconds)
  "drain_delay" (int .root.Values.shutdown.drainSeconds)
  "max_body_bytes" (int .root.Values.gateway.maxBodyBytes)
}}
{{- if gt (int .model.frontEnds) 1 }}
{{- $_ := set $own "front_ends" (int .model.frontEnds) }}
{{- end }}
{{- if .root.Values.browser.enabled }}
{{- $_ := set $own "browser_url" (printf "http://%s-browser:9222" (include "caravan.fullname" .root)) }}
{{- end }}
{{- toYaml (merge $own $settings) }}
{{- end }}
