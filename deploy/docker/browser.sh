#!/bin/sh
# Chromium for `webview` in a pod of its own. Its DevTools listen on loopback alone, so socat stands before them.
# The flags are those of app/tools/chromium.py. The container is its sandbox: it may not make one itself.
set -eu
socat TCP-LISTEN:9222,fork,reuseaddr TCP:127.0.0.1:9223 &
exec chromium \
    --headless=new \
    --no-sandbox \
    --no-first-run \
    --disable-gpu \
    --disable-extensions \
    --disable-component-update \
    --disable-default-apps \
    --disable-breakpad \
    --remote-debugging-port=9223 \
    --user-data-dir=/tmp/profile \
    --proxy-server=http://127.0.0.1:9 \
    '--proxy-bypass-list=<-loopback>' \
    --dns-prefetch-disable \
    --no-pings \
    --disable-quic \
    --force-webrtc-ip-handling-policy=disable_non_proxied_udp \
    --webrtc-ip-handling-policy=disable_non_proxied_udp \
    --enforce-webrtc-ip-permission-check \
    --disable-blink-features=WebTransport,WebTransportCustomCertificates,PrefetchPrivacyChanges,DirectSockets \
    --disable-features=AvoidUnnecessaryBeforeUnloadCheckSync,DestroyProfileOnBrowserClose,HttpsUpgrades,HttpsFirstBalancedModeAutoEnable,MediaRouter,PaintHolding,ThirdPartyStoragePartitioning,AvoidCorsURLLoaderRestartOnRedirect,OptimizationHints,NetworkTimeServiceQuerying,AimEnabled,PreconnectToSearch,AutofillServerCommunication,InterestFeedContentSuggestions,Translate \
    --deny-permission-prompts \
    --disable-background-networking \
    --disable-client-side-phishing-detection \
    --disable-domain-reliability \
    --disable-sync \
    --disable-speech-api \
    --disable-remote-playback-api \
    --mute-audio \
    --no-service-autorun \
    --js-flags=--max-old-space-size=512 \
    about:blank
