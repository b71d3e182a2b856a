#!/bin/sh
# The first process of the virtual machine: prepares it, runs what cargo xtask vm put into /segd, tells each exit
# code on a line of its own, and powers off.
export PATH=/sbin:/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mount -t tmpfs tmpfs /tmp
mount -t tmpfs tmpfs /run
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t bpf bpf /sys/fs/bpf
mount -t tracefs tracefs /sys/kernel/tracing
for module in /modules/*; do
    insmod "$module" || echo "cannot load $module"
done
ip link set lo up

/segd/segd doctor
echo "segd-vm: doctor $?"
# An emulated processor is some ten times slower.
export SEGD_BIN=/segd/segd SEGD_SLOWNESS=10
while read -r argument; do set -- "$@" "$argument"; done </segd/arguments
while read -r tests; do
    echo "-- $tests"
    "/segd/deps/$tests" --test-threads=1 "$@" </dev/null
    echo "segd-vm: $tests $?"
done </segd/tests
poweroff -f
