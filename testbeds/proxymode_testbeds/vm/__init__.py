"""A Linux guest with Debian's stock kernel, for what the host's kernel lacks: ip_vs, dummy devices, older nf_tables.

The guest's root is the host's file system, read-only, under a layer of memory; so it runs the same Python, the
same virtual environment and the same checkout, at the same paths, and leaves no trace. One thing is different:
writes that should survive go below the one folder given as `writable`. Files the host changes while a guest is up
may look old to it, except below that folder.

`python -m proxymode_testbeds.vm run -- COMMAND...` runs one command in a fresh guest. From Python:

    async with VirtualMachine.boot(kernel="6.1") as vm:
        done = await vm.run(["uname", "-r"])

It is not a general virtual machine manager: one network card, no disks, no snapshots, Linux on x86-64 only.
"""

from proxymode_testbeds.vm.kernel import KERNELS
from proxymode_testbeds.vm.machine import BootError, VirtualMachine
from proxymode_testbeds.vm.process import CommandError, CommandRefusedError, ConnectionLostError, GuestProcess
from proxymode_testbeds.vm.qemu import QemuMissingError

__all__ = [
    "KERNELS",
    "BootError",
    "CommandError",
    "CommandRefusedError",
    "ConnectionLostError",
    "GuestProcess",
    "QemuMissingError",
    "VirtualMachine",
]
