"""The VM bed's pure parts: the initramfs, the wire between host and guest, what is read out of qemu and kernels."""

from __future__ import annotations

import lzma
import struct
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxymode_testbeds.vm import initramfs
from proxymode_testbeds.vm.kernel import Kernel, boot_image
from proxymode_testbeds.vm.machine import boot_settings
from proxymode_testbeds.vm.monitor import host_port
from proxymode_testbeds.vm_guest.frames import Channel, Request, frame, take

if TYPE_CHECKING:
    from collections.abc import Iterator

MODULES_DEP = """\
kernel/net/9p/9pnet.ko:
kernel/net/9p/9pnet_virtio.ko: kernel/net/9p/9pnet.ko kernel/drivers/virtio/virtio.ko kernel/drivers/virtio_ring.ko
kernel/drivers/virtio/virtio.ko: kernel/drivers/virtio_ring.ko
kernel/drivers/virtio_ring.ko:
kernel/fs/9p/9p.ko.xz: kernel/net/9p/9pnet.ko
kernel/net/dummy-thing.ko:
"""
MODULES_BUILTIN = "kernel/fs/overlayfs/overlay.ko\n"

FRAMES = st.lists(st.tuples(st.sampled_from(Channel), st.binary(max_size=200)), max_size=20)


def read_newc(data: bytes) -> Iterator[tuple[str, int, bytes]]:
    """Path, mode and content of a newc archive's entries, read as the kernel's description says."""
    at = 0
    while True:
        assert data[at : at + 6] == b"070701"
        fields = [int(data[at + 6 + 8 * n : at + 14 + 8 * n], 16) for n in range(13)]
        name_end = at + 110 + fields[11]
        name = data[at + 110 : name_end - 1].decode()
        content_start = (name_end + 3) // 4 * 4
        content = data[content_start : content_start + fields[6]]
        if name == "TRAILER!!!":
            return
        yield name, fields[1], content
        at = (content_start + fields[6] + 3) // 4 * 4


@given(st.dictionaries(st.from_regex(r"[a-z]{1,9}(/[a-z]{1,9})?", fullmatch=True), st.binary(max_size=99), max_size=9))
def test_an_archive_reads_back(files: dict[str, bytes]) -> None:
    entries = [initramfs.folder("sub"), *(initramfs.file(path, content) for path, content in files.items())]
    packed = initramfs.archive(entries)
    assert list(read_newc(packed)) == [(entry.path, entry.mode, entry.content) for entry in entries]
    assert len(packed) % 4 == 0, "the next archive must start aligned"


def test_modules_load_after_what_they_need_and_once() -> None:
    order = initramfs.load_order(MODULES_DEP, MODULES_BUILTIN, ["9pnet_virtio", "overlay", "9p", "dummy_thing"])
    assert order == [
        "kernel/drivers/virtio_ring.ko",
        "kernel/drivers/virtio/virtio.ko",
        "kernel/net/9p/9pnet.ko",
        "kernel/net/9p/9pnet_virtio.ko",
        "kernel/fs/9p/9p.ko.xz",
        "kernel/net/dummy-thing.ko",
    ]


def test_a_module_that_does_not_exist_is_named() -> None:
    with pytest.raises(LookupError, match="ip_vs"):
        initramfs.load_order(MODULES_DEP, MODULES_BUILTIN, ["ip_vs"])


@given(FRAMES, st.integers(1, 50))
def test_frames_survive_any_cutting_of_the_stream(frames: list[tuple[Channel, bytes]], size: int) -> None:
    stream = b"".join(frame(channel, payload) for channel, payload in frames)
    buffer, taken = bytearray(), []
    for start in range(0, len(stream), size):
        buffer += stream[start : start + size]
        taken += list(take(buffer))
    assert taken == frames
    assert not buffer


@given(st.lists(st.text(), min_size=1), st.dictionaries(st.text(), st.text()), st.none() | st.text())
def test_a_request_reads_back_from_one_line(argv: list[str], env: dict[str, str], netns: str | None) -> None:
    request = Request("secret", argv, "/", env, netns)
    line = request.encode()
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert Request.decode(line) == request


USERNET = """\
Hub -1 (net):
  Protocol[State]    FD  Source Address  Port   Dest. Address  Port RecvQ SendQ
  TCP[HOST_FORWARD]  14       127.0.0.1 41234       10.0.2.15    80     0     0
  TCP[HOST_FORWARD]  13       127.0.0.1 46449       10.0.2.15  1023     0     0
  UDP[236 sec]       20       10.0.2.15   123         1.2.3.4   123     0     0
"""


def test_the_host_port_of_a_forward_is_found_in_qemus_table() -> None:
    assert host_port(USERNET, "10.0.2.15", 1023) == 46449
    assert host_port(USERNET, "10.0.2.15", 80) == 41234
    assert host_port(USERNET, "10.0.2.15", 8) is None


def bzimage(payload: bytes) -> bytes:
    """As little of a bzImage as tells where the payload is: four setup sectors, then 100 bytes of decompressor."""
    setup = bytearray(5 * 512)
    setup[0x1F1] = 4
    struct.pack_into("<II", setup, 0x248, 100, len(payload))
    return bytes(setup) + bytes(100) + payload + b"signature"


def test_an_xz_kernel_is_unpacked_and_another_left_alone() -> None:
    elf = b"\x7fELF" + bytes(1000)
    assert boot_image(bzimage(lzma.compress(elf) + struct.pack("<I", len(elf)))) == elf
    zstd = bzimage(b"\x28\xb5\x2f\xfd not for this Python")
    assert boot_image(zstd) == zstd


def test_boot_settings_are_what_the_shell_reads() -> None:
    kernel = Kernel("6.1.0", Path("/k/vmlinuz"), Path("/k/initramfs"), Path("/k/it's here/modules"))
    settings = boot_settings(kernel, Path("/results of $HOME"), "s3cret")
    script = f'{settings}\nprintf "%s|%s|%s" "$MODULES" "$WRITABLE" "$SECRET"'
    printed = subprocess.run(["sh", "-euc", script], check=True, capture_output=True, text=True).stdout
    assert printed == "/k/it's here/modules|/results of $HOME|s3cret"
