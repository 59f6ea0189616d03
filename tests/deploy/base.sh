#!/bin/sh
# Make the base image of the CPU target from Debian's packages, for a build that no registry is needed for.
#
#     base.sh FOLDER    leaves FOLDER/rootfs.tar, about 150 MB
#
# It stands in for the Python image that the Dockerfile names: the same Debian, the same Python series, `python`
# and `pip` on PATH. Certificates are this machine's own, so that an index that it trusts is trusted there too.
set -eu
folder=$1
[ ! -f "$folder/rootfs.tar" ] || exit 0
mkdir -p "$folder"
work=$(mktemp -d "$folder/build.XXXXXX")
trap 'rm -rf "$work"' EXIT
echo "making a base image in $work" >&2
debootstrap --variant=minbase --include=ca-certificates,python3,python3-pip,python3-venv,python-is-python3 \
    bookworm "$work/rootfs" >"$folder/debootstrap.log" 2>&1
printf 'deb http://deb.debian.org/debian bookworm main\ndeb http://deb.debian.org/debian-security bookworm-security main\n' \
    >"$work/rootfs/etc/apt/sources.list"
cp -L /etc/ssl/certs/ca-certificates.crt "$work/rootfs/etc/ssl/certs/ca-certificates.crt"
rm -rf "$work"/rootfs/var/cache/apt/archives/*.deb "$work"/rootfs/var/lib/apt/lists/*
tar -C "$work/rootfs" --exclude=./dev/* -cf "$work/rootfs.tar" .
mv "$work/rootfs.tar" "$folder/rootfs.tar"
