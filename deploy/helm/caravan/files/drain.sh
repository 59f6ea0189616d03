#!/usr/bin/env bash
# drain.sh NOTICE GRACE [ADMIN_PORT]: before Envoy is told to stop, be red for NOTICE seconds, so that nobody sends
# new requests, then wait until none is under way, for GRACE seconds at most. Envoy's image has no curl.
notice=$1 grace=$2 port=${3:-9901}

admin() {
  exec 3<>/dev/tcp/127.0.0.1/$port || return
  printf '%s %s HTTP/1.1\r\nHost: admin\r\nContent-Length: 0\r\nConnection: close\r\n\r\n' "$1" "$2" >&3
  cat <&3
  exec 3>&-
}

admin POST /healthcheck/fail >/dev/null
sleep "$notice"
deadline=$((SECONDS + grace))
while [ "$SECONDS" -lt "$deadline" ]; do
  admin GET '/stats?filter=^http.gateway.downstream_rq_active$' | grep -q 'downstream_rq_active: 0' && break
  sleep 1
done
