#!/bin/sh
# Build a Kubernetes node from Debian's source package, which is the whole of Kubernetes with all that it imports.
#
#     kubernetes.sh FOLDER    leaves kube-apiserver, kube-controller-manager, kube-scheduler, kubelet and kube-proxy there
#
# About ten minutes on two usual cores, 3 GB of disk while it builds; nothing to do where FOLDER has them all.
set -eu
folder=$1
programs="kube-apiserver kube-controller-manager kube-scheduler kubelet kube-proxy"
have=yes
for program in $programs; do [ -x "$folder/$program" ] || have=no; done
[ $have = no ] || exit 0

mkdir -p "$folder"
work=$(mktemp -d "$folder/build.XXXXXX")
trap 'chmod -R u+w "$work"; rm -rf "$work"' EXIT
echo "building Kubernetes in $work" >&2

# Sources by a list of our own: the machine's stays as it is.
mkdir -p "$work/apt" "$work/lists/partial" "$work/src"
sed 's/^Types: deb$/Types: deb-src/' /etc/apt/sources.list.d/debian.sources >"$work/apt/src.sources"
apt="-o Dir::Etc::SourceList=/dev/null -o Dir::Etc::SourceParts=$work/apt -o Dir::State::lists=$work/lists -o APT::Sandbox::User=root"
# shellcheck disable=SC2086  # a list of options
apt-get $apt update -qq
# shellcheck disable=SC2086
(cd "$work/src" && apt-get $apt source -qq kubernetes >/dev/null)

cd "$work"/src/kubernetes-*/
mkdir -p .go/src/k8s.io
ln -sfn ../../.. .go/src/k8s.io/kubernetes
for program in $programs; do
    [ ! -x "$folder/$program" ] || continue
    echo "building $program" >&2
    env GOPATH="$PWD/.go" HOME="$work" CGO_ENABLED=0 GOFLAGS="-p=$(nproc)" make WHAT="cmd/$program" >"$folder/$program.log" 2>&1
    install "_output/bin/$program" "$folder/$program"
done
