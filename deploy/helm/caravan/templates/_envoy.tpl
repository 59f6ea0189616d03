{{- /* Envoy's whole configuration: every model's workload is a cluster, chosen by what route.lua finds in the body. */}}
{{- define "caravan.envoy.config" -}}
{{- $maxBody := int .Values.gateway.maxBodyBytes }}
{{- $idle := printf "%ds" (int .Values.gateway.streamIdleSeconds) }}
admin:
  address:
    socket_address: {address: 127.0.0.1, port_value: 9901}
overload_manager:
  # Often, for what arrives between two looks is taken.
  refresh_interval: 0.02s
  # Streams are accounted for from 1 MiB on.
  buffer_factory_config: {minimum_account_to_track_power_of_two: 20}
  resource_monitors:
    - name: envoy.resource_monitors.fixed_heap
      typed_config:
        "@type": type.googleapis.com/envoy.extensions.resource_monitors.fixed_heap.v3.FixedHeapConfig
        max_heap_size_bytes: {{ include "caravan.envoy.heap" . }}
    - name: envoy.resource_monitors.global_downstream_max_connections
      typed_config:
        "@type": type.googleapis.com/envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig
        max_active_downstream_connections: 50000
  # Large bodies go first, then new requests, and streams as the last, the largest before others.
  loadshed_points:
    - name: envoy.load_shed_points.http1_server_abort_dispatch
      triggers:
        - name: envoy.resource_monitors.fixed_heap
          scaled: {scaling_threshold: 0.7, saturation_threshold: 1}
  actions:
    - name: envoy.overload_actions.shrink_heap
      triggers:
        - name: envoy.resource_monitors.fixed_heap
          threshold: {value: 0.6}
    - name: envoy.overload_actions.stop_accepting_requests
      triggers:
        - name: envoy.resource_monitors.fixed_heap
          threshold: {value: 0.9}
    - name: envoy.overload_actions.reset_high_memory_stream
      triggers:
        - name: envoy.resource_monitors.fixed_heap
          scaled: {scaling_threshold: 0.92, saturation_threshold: 0.98}
static_resources:
  listeners:
    - name: http
      address:
        socket_address: {address: 0.0.0.0, port_value: 11434}
      # Of an answer that its client does not read. Requests have a limit of their own (`request_body_buffer_limit`).
      per_connection_buffer_limit_bytes: {{ min $maxBody 1048576 }}
      filter_chains:
        - filters:
            - name: envoy.filters.network.http_connection_manager
              typed_config:
                "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
                stat_prefix: gateway
                use_remote_address: true
                preserve_external_request_id: true
                server_header_transformation: PASS_THROUGH
                normalize_path: false
                stream_idle_timeout: {{ $idle }}
                {{- /* Envoy has one such limit for all paths, and blobs are long. */}}
                request_timeout: {{ .Values.pools | empty | ternary (int .Values.gateway.bodySeconds) (max (int .Values.gateway.bodySeconds) (int .Values.store.uploadSeconds)) }}s
                request_headers_timeout: 15s
                common_http_protocol_options:
                  idle_timeout: 300s
                  headers_with_underscores_action: ALLOW
                http_protocol_options:
                  accept_http_10: true
                {{- if .Values.gateway.accessLog }}
                access_log:
                  - name: envoy.access_loggers.stdout
                    typed_config:
                      "@type": type.googleapis.com/envoy.extensions.access_loggers.stream.v3.StdoutAccessLog
                      log_format:
                        json_format:
                          time: "%START_TIME%"
                          method: "%REQ(:METHOD)%"
                          path: "%REQ(:PATH)%"
                          model: "%REQ(X-CARAVAN-MODEL)%"
                          status: "%RESPONSE_CODE%"
                          flags: "%RESPONSE_FLAGS%"
                          duration_ms: "%DURATION%"
                          upstream: "%UPSTREAM_HOST%"
                          attempts: "%UPSTREAM_REQUEST_ATTEMPT_COUNT%"
                          request_id: "%REQ(X-REQUEST-ID)%"
                {{- end }}
                local_reply_config:
                  {{- include "caravan.envoy.replies" . | nindent 18 }}
                http_filters:
                  - name: envoy.filters.http.lua
                    typed_config:
                      "@type": type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua
                      default_source_code:
                        inline_string: |
                          {{- include "caravan.route.lua" . | nindent 26 }}
                  - name: envoy.filters.http.router
                    typed_config:
                      "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router
                      suppress_envoy_headers: true
                route_config:
                  # Said to this Envoy; one in front of it would take it for the gateway's own.
                  response_headers_to_remove: [x-envoy-immediate-health-check-fail]
                  virtual_hosts:
                    - name: all
                      domains: ["*"]
                      # The whole body is read before a route is chosen; what is larger gets 413.
                      request_body_buffer_limit: {{ $maxBody }}
                      routes:
                        {{- range concat .Values.models .Values.pools }}
                        {{- $slug := include "caravan.model.slug" . }}
                        {{- if not (hasKey . "source") }}
                        # A blob may be larger than all memory: it passes as it comes, and is not held to be sent again.
                        - match:
                            prefix: /api/blobs/
                            headers:
                              - name: x-caravan-model
                                string_match: {exact: {{ $slug | quote }}}
                          request_body_buffer_limit: 65536
                          route:
                            timeout: 0s
                            idle_timeout: {{ int $.Values.gateway.streamIdleSeconds }}s
                            cluster: {{ printf "model-%s" $slug }}
                            hash_policy:
                              - header: {header_name: x-caravan-affinity}
                        {{- end }}
                        - match:
                            prefix: /
                            headers:
                              - name: x-caravan-model
                                string_match: {exact: {{ $slug | quote }}}
                          route:
                            {{- include "caravan.envoy.stream" $ | nindent 28 }}
                            cluster: {{ printf "model-%s" $slug }}
                            hash_policy:
                              - header: {header_name: x-caravan-affinity}
                        {{- end }}
                        - match: {prefix: /}
                          route:
                            {{- include "caravan.envoy.stream" . | nindent 28 }}
                            cluster: directory
    - name: metrics
      address:
        socket_address: {address: 0.0.0.0, port_value: 9902}
      filter_chains:
        - filters:
            - name: envoy.filters.network.http_connection_manager
              typed_config:
                "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
                stat_prefix: metrics
                http_filters:
                  - name: envoy.filters.http.router
                    typed_config:
                      "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router
                route_config:
                  virtual_hosts:
                    - name: admin
                      domains: ["*"]
                      routes:
                        - match: {path: /ready}
                          route: {cluster: admin}
                        - match: {path: /stats/prometheus}
                          route: {cluster: admin}
                        - match: {path: /live}
                          direct_response: {status: 200, body: {inline_string: ok}}
    # Where requests wait while no replica is ready: each try ends with a 503, after which Envoy looks again.
    - name: waiting
      address:
        socket_address: {address: 127.0.0.1, port_value: 9903}
      filter_chains:
        - filters:
            - name: envoy.filters.network.http_connection_manager
              typed_config:
                "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
                stat_prefix: waiting
                local_reply_config:
                  {{- include "caravan.envoy.replies" . | nindent 18 }}
                http_filters:
                  {{- if .Values.gateway.waitSeconds }}
                  - name: envoy.filters.http.fault
                    typed_config:
                      "@type": type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault
                      delay:
                        fixed_delay: {{ printf "%.3fs" (divf .Values.gateway.waitSeconds (add 1 .Values.gateway.retries)) }}
                        percentage: {numerator: 100}
                  {{- end }}
                  - name: envoy.filters.http.router
                    typed_config:
                      "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router
                route_config:
                  virtual_hosts:
                    - name: all
                      domains: ["*"]
                      routes:
                        - match: {prefix: /}
                          direct_response:
                            status: 503
                            body: {inline_string: {{ include "caravan.envoy.noReplica" . | quote }}}
  clusters:
    - name: admin
      type: STATIC
      connect_timeout: 1s
      load_assignment:
        cluster_name: admin
        endpoints:
          - lb_endpoints:
              - endpoint:
                  address:
                    socket_address: {address: 127.0.0.1, port_value: 9901}
    - name: directory
      type: STATIC
      connect_timeout: 1s
      {{- include "caravan.envoy.upstream" . | nindent 6 }}
      load_assignment:
        cluster_name: directory
        endpoints:
          - lb_endpoints:
              - endpoint:
                  address:
                    socket_address: {address: 127.0.0.1, port_value: 11435}
    {{- range concat .Values.models .Values.pools }}
    {{- $slug := include "caravan.model.slug" . }}
    {{- $factor := $.Values.gateway.hashBalanceFactor }}
    {{- if not (hasKey . "source") }}
    {{- $factor = default $.Values.poolDefaults.hashBalanceFactor .hashBalanceFactor }}
    {{- end }}
    {{- $host := printf "%s-%s" (include "caravan.fullname" $) $slug }}
    - name: {{ printf "model-%s" $slug }}
      # Every address of the headless Service, looked up anew all the time.
      cluster_type:
        name: envoy.clusters.dns
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.clusters.dns.v3.DnsCluster
          dns_refresh_rate: 1s
          dns_failure_refresh_rate: {base_interval: 1s, max_interval: 2s}
          dns_lookup_family: ALL
      # A pod that is gone from DNS gets no more requests, whatever its last health check said.
      ignore_health_on_host_removal: true
      connect_timeout: 2s
      {{- include "caravan.envoy.upstream" $ | nindent 6 }}
      lb_policy: RING_HASH
      ring_hash_lb_config: {minimum_ring_size: 1024}
      common_lb_config:
        healthy_panic_threshold: {value: 0}
        # A replica that stops has the least to do, and so would get every request until the news has spread.
        update_merge_window: 0s
        consistent_hashing_lb_config:
          hash_balance_factor: {{ $factor }}
      # Silence counts against a replica from the third time on, a bad answer at once.
      health_checks:
        - timeout: 3s
          interval: 1s
          no_traffic_interval: 1s
          unhealthy_threshold: 3
          healthy_threshold: 1
          http_health_check: {path: /readyz}
      outlier_detection:
        # Only what never reached a server counts against it: a full queue is no fault.
        split_external_local_origin_errors: true
        consecutive_local_origin_failure: 2
        enforcing_consecutive_5xx: 0
        enforcing_consecutive_gateway_failure: 0
        enforcing_success_rate: 0
        enforcing_local_origin_success_rate: 0
        interval: 1s
        base_ejection_time: 2s
        max_ejection_time: 10s
        max_ejection_percent: 100
      load_assignment:
        cluster_name: {{ printf "model-%s" $slug }}
        # One replica that is ready takes all requests before any is sent to wait.
        policy: {overprovisioning_factor: 100000}
        endpoints:
          - lb_endpoints:
              - endpoint:
                  hostname: {{ $host }}
                  address:
                    socket_address: {address: {{ $host }}, port_value: 11434}
          - priority: 1
            lb_endpoints:
              - endpoint:
                  address:
                    socket_address: {address: 127.0.0.1, port_value: 9903}
                  health_check_config: {disable_active_health_check: true}
    {{- end }}
{{- end }}

{{- define "caravan.envoy.noReplica" -}}
no replica of this model answers, please try again
{{- end }}

{{- /* Envoy's own errors, in the words of the API that was called, as app/api/dialect.py has them. The first mapper
that fits counts, so the longest path comes first. */}}
{{- define "caravan.envoy.replies" -}}
{{- $large := printf "request body is too large: the limit is %d bytes" (int .Values.gateway.maxBodyBytes) }}
{{- $full := "the gateway has no memory left for this request, please try again" }}
{{- /* Envoy knows no such upgrade. Codex tries one first, and at this status goes on over HTTP at once. */}}
{{- $http := "responses are served over HTTP, not over a WebSocket: use POST" }}
{{- $upgrade := dict "status" 403 "as" 426 "on" "/v1/responses" "text" $http }}
{{- $cases := list
  (dict "status" 413 "as" 413 "text" $large)
  (dict "status" 500 "flags" (list "OM") "as" 503 "text" $full "headers" (dict "retry-after" "1"))
  (dict "flags" (list "UH" "UF" "UC" "URX") "as" 503 "text" (include "caravan.envoy.noReplica" .))
  (dict "status" 503 "as" 503)
  (dict "status" 400 "as" 400)
  (dict) }}
mappers:
  {{- include "caravan.envoy.reply" (dict "api" "/v1/" "case" $upgrade) | nindent 2 }}
  {{- range $api := list "/v1/messages" "/v1/" "" }}
  {{- range $cases }}
  {{- if or $api . }}
  {{- include "caravan.envoy.reply" (dict "api" $api "case" .) | nindent 2 }}
  {{- end }}
  {{- end }}
  {{- end }}
body_format:
  {{- include "caravan.envoy.words" (dict "api" "" "status" 0) | nindent 2 }}
{{- end }}

{{- /* One mapper: a `case` (a status or flags of Envoy's, `as` what status, with what text) on the paths of an `api`. */}}
{{- define "caravan.envoy.reply" -}}
{{- $case := .case }}
{{- $causes := list }}
{{- with $case.status }}
{{- $value := dict "default_value" . "runtime_key" (printf "caravan.status_%d" .) }}
{{- $causes = append $causes (dict "status_code_filter" (dict "comparison" (dict "op" "EQ" "value" $value))) }}
{{- end }}
{{- with $case.flags }}
{{- $causes = append $causes (dict "response_flag_filter" (dict "flags" .)) }}
{{- end }}
{{- $all := list }}
{{- with $case.on | default .api }}
{{- $all = append $all (dict "header_filter" (dict "header" (dict "name" ":path" "string_match" (dict "prefix" .)))) }}
{{- end }}
{{- if gt (len $causes) 1 }}
{{- $all = append $all (dict "or_filter" (dict "filters" $causes)) }}
{{- else }}
{{- $all = concat $all $causes }}
{{- end }}
- filter: {{ gt (len $all) 1 | ternary (dict "and_filter" (dict "filters" $all)) (first $all) | toJson }}
  {{- with $case.as }}
  status_code: {{ and (eq $.api "/v1/messages") (eq . 503) | ternary 529 . }}
  {{- end }}
  {{- with $case.text }}
  body: {inline_string: {{ . | quote }}}
  {{- end }}
  {{- $headers := deepCopy ($case.headers | default dict) }}
  {{- if eq .api "/v1/messages" }}
  {{- $headers = set $headers "request-id" "%REQ(X-REQUEST-ID)%" }}
  {{- end }}
  {{- if $headers }}
  headers_to_add:
    {{- range $name, $value := $headers }}
    - header: {key: {{ $name }}, value: {{ $value | quote }}}
    {{- end }}
  {{- end }}
  body_format_override:
    {{- include "caravan.envoy.words" (dict "api" .api "status" $case.as) | nindent 4 }}
{{- end }}

{{- /* The envelope of an API for an error of that status. */}}
{{- define "caravan.envoy.words" -}}
{{- $type := "api_error" }}
{{- if eq .api "/v1/messages" }}
{{- $types := dict "400" "invalid_request_error" "413" "request_too_large" "503" "overloaded_error" }}
{{- $type = get $types (toString .status) | default $type }}
json_format: {type: error, error: {type: {{ $type }}, message: "%LOCAL_REPLY_BODY%"}, request_id: "%REQ(X-REQUEST-ID)%"}
{{- else if .api }}
{{- if has .status (list 400 426) }}
{{- $type = "invalid_request_error" }}
{{- end }}
json_format: {error: {message: "%LOCAL_REPLY_BODY%", type: {{ $type }}, param: null, code: null}}
{{- else }}
json_format: {error: "%LOCAL_REPLY_BODY%"}
{{- end }}
content_type: application/json; charset=utf-8
{{- end }}

{{- define "caravan.route.lua" -}}
MODELS = {
{{- range .Values.models }}
{{- $slug := include "caravan.model.slug" . }}
  [{{ .name | quote }}] = {{ $slug | quote }},
{{- range .aliases }}
  [{{ .name | quote }}] = {{ $slug | quote }},
{{- end }}
{{- end }}
}
{{- if .Values.pools }}
POOLS = {
{{- range include "caravan.pools.inOrder" . | fromYamlArray }}
  { slug = {{ .slug | quote }}, pods = {{ .podsPerModel }}{{ with .names }}, names = { {{- range . }} {{ lower . | quote }}, {{- end }} }{{ end }} },
{{- end }}
}
{{- end }}
AFFINITY = {{ .Values.gateway.cacheAffinity }}
KEYED = {{ ternary "true" "false" (ne (include "caravan.keysSecret" .) "") }}

{{ .Files.Get "files/route.lua" }}
{{- end }}

{{- /* Of every route: a stream may take for ever, and what nothing was done for is tried elsewhere. */}}
{{- define "caravan.envoy.stream" -}}
timeout: 0s
idle_timeout: {{ int .Values.gateway.streamIdleSeconds }}s
retry_policy:
  retry_on: connect-failure,refused-stream,reset-before-request,retriable-status-codes
  # A server that is to stop, or whose queue is full, says 503 (on Anthropic's routes 529) before any work.
  retriable_status_codes: [503, 529]
  num_retries: {{ .Values.gateway.retries }}
  retry_back_off: {base_interval: 0.025s, max_interval: 0.25s}
  retry_host_predicate:
    - name: envoy.retry_host_predicates.previous_hosts
      typed_config:
        "@type": type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate
  # Neighbours on the ring are often the same replica.
  host_selection_retry_max_attempts: 20
{{- end }}

{{- /* Of every server behind Envoy. Idle connections go before the server closes them, which it does after 5 s. */}}
{{- define "caravan.envoy.upstream" -}}
per_connection_buffer_limit_bytes: 1048576
circuit_breakers:
  thresholds:
    - max_connections: 1000000
      max_pending_requests: 1000000
      max_requests: 1000000
      max_retries: 1000
typed_extension_protocol_options:
  envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
    "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
    common_http_protocol_options: {idle_timeout: 4s}
    explicit_http_config:
      http_protocol_options: {}
{{- end }}

{{- /* Bytes of Envoy's heap: of its memory limit what its threads, Lua and freed pages leave. */}}
{{- define "caravan.envoy.heap" -}}
{{- $resources := .Values.gateway.resources }}
{{- $memory := default "1Gi" (get (default dict $resources.limits) "memory") }}
{{- printf "%d" (int64 (mulf 0.75 (include "caravan.number" $memory | float64))) }}
{{- end }}
