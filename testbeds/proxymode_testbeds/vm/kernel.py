"""Debian's stock kernels, unpacked into the cache and made bootable.

A kernel package is only unpacked, never installed: what its maintainer scripts would do (the module index, the
initramfs) is done here, for the guest alone.
"""

from __future__ import annotations

import lzma
import shutil
import struct
import subprocess
from pathlib import Path
from typing import NamedTuple

from proxymode_testbeds import cache, debs, vm_guest
from proxymode_testbeds.vm import initramfs

KERNELS = {"6.1": "bookworm", "6.12": "trixie"}
"""Kernel series and the Debian suite whose `linux-image-amd64` is that series."""

INIT = Path(vm_guest.__file__).with_name("init.sh")


class Kernel(NamedTuple):
    """Files of one kernel. `modules` is what the guest sees as /lib/modules/`release`."""

    release: str
    image: Path
    initramfs: Path
    modules: Path


def prepare(series: str) -> Kernel:
    """The kernel of a series in `KERNELS`, from the cache where possible. Blocks while it downloads and unpacks.

    Raises ValueError for an unknown series and what :mod:`proxymode_testbeds.debs` raises.
    """
    if series not in KERNELS:
        raise ValueError(f"kernel {series!r}: known series are {', '.join(KERNELS)}")
    packages = debs.unpack(KERNELS[series], ["linux-image-amd64", "busybox-static"], exact_dependencies=True)
    recipe = cache.digest(path.read_text() for path in (INIT, Path(initramfs.__file__), Path(__file__)))

    def build(folder: Path) -> None:
        cache.progress(f"preparing the guest's kernel {series}")
        source = _only(packages, "lib/modules/*", "usr/lib/modules/*")
        modules = folder / "lib" / "modules" / source.name
        shutil.copytree(source, modules, copy_function=_link)
        subprocess.run(["depmod", "-b", folder, source.name], check=True)
        (folder / "vmlinuz").write_bytes(boot_image(_only(packages, "boot/vmlinuz-*").read_bytes()))
        busybox = _only(packages, "bin/busybox", "usr/bin/busybox")
        (folder / "initramfs").write_bytes(initramfs.base(busybox=busybox, modules=modules, init=INIT))

    made = cache.entry("kernel", f"{packages.name}-{recipe}", build)
    modules = _only(made, "lib/modules/*")
    return Kernel(modules.name, made / "vmlinuz", made / "initramfs", modules)


def boot_image(bzimage: bytes) -> bytes:
    """The ELF kernel inside a bzImage where that is xz-compressed, else the bzImage; qemu starts both.

    Unpacking itself takes an emulated kernel two to three seconds of each boot. The fields are those of the kernel's
    Documentation/arch/x86/boot.rst, protocol 2.08: setup_sects, payload_offset, payload_length.
    """
    setup_sectors = bzimage[0x1F1] or 4
    offset, length = struct.unpack_from("<II", bzimage, 0x248)
    start = (setup_sectors + 1) * 512 + offset
    payload = bzimage[start : start + length]
    if not payload.startswith(b"\xfd7zXZ\0"):
        return bzimage
    # The kernel's build puts the unpacked length behind the xz stream, hence no lzma.decompress().
    return lzma.LZMADecompressor().decompress(payload)


def _only(folder: Path, *patterns: str) -> Path:
    found = [path for pattern in patterns for path in folder.glob(pattern)]
    if len(found) != 1:
        raise FileNotFoundError(f"one file like {' or '.join(patterns)} expected in {folder}, found {found}")
    return found[0]


def _link(source: str, target: str) -> None:
    """Hard links: the modules are 300 MB, and the cache has them already."""
    Path(target).hardlink_to(source)
