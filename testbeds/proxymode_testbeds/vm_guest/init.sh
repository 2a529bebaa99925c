#!/bin/busybox sh
# PID 1 of a guest: turns the host's file system, read-only, into the guest's root, then starts the daemon that
# takes commands. Everything a guest writes goes to memory, except under the folder shared as "writable".
#
# /boot.env comes with each boot (see proxymode_testbeds/vm/machine.py) and sets MODULES, RELEASE, WRITABLE
# (empty: none), SECRET, PORT, PYTHON and PYTHONPATH. Any failure here ends PID 1, so the kernel panics, qemu
# exits and the last console lines are in the host's exception.
set -e
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
for module in /modules/*.ko; do insmod "$module"; done

if grep -qw proxymode.probe /proc/cmdline; then
    echo "proxymode-vm: booted"
    poweroff -f
fi
. /boot.env

share=trans=virtio,version=9p2000.L,msize=512000
mkdir /host /memory
mount -t 9p -o "$share,ro,cache=loose" host /host
mount -t tmpfs -o mode=755,size=75% memory /memory
mkdir /memory/upper /memory/work /memory/root
root=/memory/root
mount -t overlay -o lowerdir=/host,upperdir=/memory/upper,workdir=/memory/work overlay $root

mount -t proc proc $root/proc
mount -t sysfs sysfs $root/sys
mount -t devtmpfs dev $root/dev
mkdir -p $root/dev/pts $root/dev/shm $root/run $root/lib/modules
mount -t devpts -o ptmxmode=666 devpts $root/dev/pts
mount -t tmpfs -o mode=1777 shm $root/dev/shm
mount -t tmpfs -o mode=755 run $root/run
mkdir $root/run/lock $root/run/netns
mkdir -p "$root/lib/modules/$RELEASE"
mount --bind "$root$MODULES" "$root/lib/modules/$RELEASE"
if [ -n "$WRITABLE" ]; then
    mount -t 9p -o "$share,rw,cache=none" writable "$root$WRITABLE"
fi

hostname proxymode-vm
ip link set lo up
# qemu's user network: the guest is .15, the host's loopback .2.
ip address add 10.0.2.15/24 dev eth0
ip link set eth0 up
ip route add default via 10.0.2.2

umount /proc /sys /dev
# switch_root empties the initramfs, so what comes after must be found in the new root. The shell stays PID 1 to
# reap orphans; the machine's life ends with the daemon's.
echo "$SECRET" > $root/run/proxymode-vm-secret
chmod 600 $root/run/proxymode-vm-secret
export PYTHON PYTHONPATH PORT
exec switch_root $root /bin/sh -c '
    env -i PYTHONPATH="$PYTHONPATH" "$PYTHON" -S -m proxymode_testbeds.vm_guest "$PORT" \
        < /run/proxymode-vm-secret &
    wait $!
    echo o > /proc/sysrq-trigger
    while :; do sleep 1; done'
