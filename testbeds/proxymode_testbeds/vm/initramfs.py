"""The first user space of a guest: a cpio archive, built in memory.

Debian's kernel has 9p, virtio and overlayfs as modules only, so something must load them before the host's
file system can become the guest's root. That is all this archive does: busybox, those modules in load order
and `init.sh`. It does not come from initramfs-tools, because that tool reads the system it runs on; this one
depends on its arguments alone.

The archive format is "newc" as in the kernel's Documentation/driver-api/early-userspace/buffer-format.rst; the
kernel unpacks several archives one after the other, which is how a boot's own files are added to a cached base.
"""

from __future__ import annotations

import lzma
import stat
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

BOOT_MODULES = ("virtio_pci", "virtio_net", "9pnet_virtio", "9p", "overlay")
"""What must be loaded before the root file system, and with it modprobe, is there."""


class Entry(NamedTuple):
    """One file, folder or device node of an archive; `path` has no leading slash."""

    path: str
    mode: int
    content: bytes = b""
    device: tuple[int, int] = (0, 0)


def folder(path: str) -> Entry:
    return Entry(path, stat.S_IFDIR | 0o755)


def file(path: str, content: bytes, *, mode: int = 0o644) -> Entry:
    return Entry(path, stat.S_IFREG | mode, content)


def archive(entries: Iterable[Entry]) -> bytes:
    """The entries as a newc cpio archive, owner root, modification time 0: equal input gives equal bytes."""
    out = bytearray()
    for inode, entry in enumerate([*entries, Entry("TRAILER!!!", 0)], start=1):
        name = entry.path.encode() + b"\0"
        links = 2 if stat.S_ISDIR(entry.mode) else 1
        fields = (inode, entry.mode, 0, 0, links, 0, len(entry.content), 0, 0, *entry.device, len(name), 0)
        out += b"070701" + b"".join(b"%08X" % field for field in fields) + name
        out += bytes(-len(out) % 4)
        out += entry.content
        out += bytes(-len(out) % 4)
    return bytes(out)


def load_order(modules_dep: str, modules_builtin: str, wanted: Iterable[str]) -> list[str]:
    """Paths of the wanted modules and all they need, dependencies first, each once; built-in ones left out.

    The texts are depmod's modules.dep, whose lines read `path: dependency...` with the nearest dependency first, and
    the kernel's modules.builtin. Raises LookupError for a module that is in neither.
    """
    dependencies: dict[str, list[str]] = {}
    for line in modules_dep.splitlines():
        path, _, needs = line.partition(":")
        dependencies[path] = needs.split()
    path_of = {_module_name(path): path for path in dependencies}
    builtin = {_module_name(path) for path in modules_builtin.splitlines()}
    ordered: dict[str, None] = {}
    for name in wanted:
        if name in path_of:
            path = path_of[name]
            ordered.update(dict.fromkeys([*reversed(dependencies[path]), path]))
        elif name not in builtin:
            raise LookupError(f"kernel module {name}: this kernel neither ships it nor has it built in")
    return list(ordered)


def _module_name(path: str) -> str:
    return path.rsplit("/", 1)[-1].partition(".ko")[0].replace("-", "_")


def base(*, busybox: Path, modules: Path, init: Path) -> bytes:
    """The archive every boot of one kernel shares.

    `modules` is the kernel's /lib/modules/RELEASE after depmod; `init` the script that becomes /init. The
    modules get numbered names, so that the script loads them with a glob.
    """
    index, builtin = (modules / "modules.dep").read_text(), (modules / "modules.builtin").read_text()
    paths = load_order(index, builtin, BOOT_MODULES)
    return archive(
        [
            *(folder(path) for path in ("bin", "dev", "modules", "proc", "sys")),
            Entry("dev/console", stat.S_IFCHR | 0o600, device=(5, 1)),
            file("bin/busybox", busybox.read_bytes(), mode=0o755),
            *(file(f"modules/{n:02d}.ko", _module(modules / path)) for n, path in enumerate(paths)),
            file("init", init.read_bytes(), mode=0o755),
        ]
    )


def _module(path: Path) -> bytes:
    """The module's bytes; trixie ships them as .ko.xz, which busybox's insmod would hand over compressed."""
    content = path.read_bytes()
    return lzma.decompress(content) if path.suffix == ".xz" else content
