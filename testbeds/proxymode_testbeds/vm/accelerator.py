"""KVM or emulation: a verdict by experiment.

/dev/kvm existing says little: inside some clouds it is there, opens, and a stock guest never reaches its first
process. So before KVM is used, a kernel boots to its first process under it, against a deadline; the verdict holds
until the machine boots again or kernel or qemu change.
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from proxymode_testbeds import cache

if TYPE_CHECKING:
    from proxymode_testbeds.vm.kernel import Kernel

PROBE_SECONDS = 10.0  # a KVM guest needs about one; a hanging one would take for ever
KVM = ("-accel", "kvm", "-cpu", "host")
EMULATION = ("-accel", "tcg,thread=multi", "-cpu", "max")


def choose(kernel: Kernel, qemu: str) -> tuple[str, ...]:
    """qemu's arguments for the fastest way that works on this machine. Blocks for the probe, once."""
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return EMULATION
    host_boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    version = subprocess.run([qemu, "--version"], check=True, capture_output=True, text=True).stdout
    key = re.sub(r"[^\w.-]+", "-", f"{host_boot}-{kernel.release}-{version.splitlines()[0]}")

    def probe(folder: Path) -> None:
        (folder / "verdict").write_text("kvm" if boots(kernel, qemu, KVM, PROBE_SECONDS) else "emulation")

    verdict = (cache.entry("accelerator", key, probe) / "verdict").read_text()
    return KVM if verdict == "kvm" else EMULATION


def boots(kernel: Kernel, qemu: str, accelerator: tuple[str, ...], seconds: float) -> bool:
    """Whether a small guest gets as far as its first process within that time."""
    command = ["setpriv", "--pdeathsig", "KILL", qemu, *accelerator, "-m", "256", "-no-reboot"]
    command += ["-nodefaults", "-display", "none", "-serial", "stdio"]
    command += ["-kernel", str(kernel.image), "-initrd", str(kernel.initramfs)]
    command += ["-append", "console=ttyS0 panic=-1 quiet proxymode.probe"]
    try:
        done = subprocess.run(
            command,
            timeout=seconds,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return False
    return b"proxymode-vm: booted" in done.stdout
