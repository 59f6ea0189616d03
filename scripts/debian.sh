#!/bin/sh
# Install the Debian packages named, those that are missing, without their recommendations. Needs root.
set -eu
missing=""
for package in "$@"; do
    dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed || missing="$missing $package"
done
[ -n "$missing" ] || exit 0
[ "$(id -u)" = 0 ] || { echo "these Debian packages are needed:$missing" >&2; exit 1; }
echo "installing$missing" >&2
export DEBIAN_FRONTEND=noninteractive
# A package that starts a service when it is installed must not: tests start their own.
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
    printf '#!/bin/sh\nexit 101\n' >$policy
    chmod +x $policy
    trap 'rm -f $policy' EXIT
fi
# shellcheck disable=SC2086  # a list of names
apt-get install -qq -y --no-install-recommends $missing >/dev/null || {
    apt-get update -qq
    apt-get install -qq -y --no-install-recommends $missing >/dev/null
}
