#!/bin/bash
# The first process of a node of the SLURM lab, in namespaces of its own: NAME LAB [SHARED FOLDER BELOW /tmp ...]
set -eu
name=$1 lab=$2
shift 2
hostname "$name"
mount --bind "$lab/etc/hosts" /etc/hosts
mount --bind "$lab/etc/resolv.conf" /etc/resolv.conf
mount -t tmpfs -o size=2g,mode=1777 tmpfs /dev/shm
mount -t tmpfs -o mode=755 tmpfs /run
tmp=$lab/nodes/$name/tmp
for folder in "$@"; do
    mkdir -p "$tmp/${folder#/tmp/}"
    mount --bind "$folder" "$tmp/${folder#/tmp/}"
done
mount --rbind "$tmp" /tmp
cd /
slurmd -N "$name"
# Waiting, bash also reaps processes whose parents have gone. The number tells this sleep from anybody else's.
while :; do
    sleep 2147483647 &
    wait $! || true
done
