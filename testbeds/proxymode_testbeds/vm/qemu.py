"""The machine a guest gets, as qemu's command line."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import NamedTuple

from proxymode_testbeds.vm import accelerator
from proxymode_testbeds.vm import kernel as kernels

PROGRAM = "qemu-system-x86_64"

# Quiet and unprotected for speed; panic=-1 together with qemu's -no-reboot makes a panic end qemu at once.
KERNEL_ARGUMENTS = "console=ttyS0 panic=-1 quiet mitigations=off nokaslr tsc=reliable no_timer_check"


class QemuMissingError(Exception):
    """qemu is not installed."""


class Machine(NamedTuple):
    """What has to be found, fetched or tried before a guest can boot."""

    program: str
    accelerator: tuple[str, ...]
    kernel: kernels.Kernel


def prepare(series: str) -> Machine:
    """Blocks: the first time for a kernel it downloads and unpacks, the first time since the host booted it tries KVM.

    Raises QemuMissingError and what :func:`proxymode_testbeds.vm.kernel.prepare` raises.
    """
    program = shutil.which(PROGRAM)
    if program is None:
        raise QemuMissingError(f"{PROGRAM} is not on PATH; Debian's package qemu-system-x86 has it")
    kernel = kernels.prepare(series)
    return Machine(program, accelerator.choose(kernel, program), kernel)


def command(machine: Machine, *, initrd: Path, memory_mb: int, writable: Path | None, monitor: int) -> list[str]:
    """Dies with the thread that starts it. `monitor` is the descriptor of a connected socket for QMP."""
    return [
        *("setpriv", "--pdeathsig", "KILL", machine.program, *machine.accelerator),
        *("-machine", "q35", "-smp", "2", "-m", str(memory_mb)),
        *("-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"),
        *("-kernel", str(machine.kernel.image), "-initrd", str(initrd), "-append", KERNEL_ARGUMENTS),
        *("-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console"),
        *("-chardev", f"socket,id=monitor,fd={monitor}", "-mon", "chardev=monitor,mode=control"),
        # romfile: without it qemu wants a network boot ROM from another package.
        *("-netdev", "user,id=net,ipv6=off", "-device", "virtio-net-pci,netdev=net,romfile="),
        *_share("host", Path("/"), "readonly=on"),
        *(_share("writable", writable.absolute(), "readonly=off") if writable else ()),
    ]


def _share(tag: str, folder: Path, access: str) -> tuple[str, ...]:
    # multidevs=remap: the folder may span file systems, whose inode numbers would collide in the guest.
    backend = f"local,id={tag},path={folder},security_model=none,multidevs=remap,{access}"
    return ("-fsdev", backend, "-device", f"virtio-9p-pci,fsdev={tag},mount_tag={tag}")
