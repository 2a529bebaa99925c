"""A table of iptables-legacy, as the kernel gives and takes it, and the same without some of its chains. Pure.

The kernel knows such a table only as a whole: entries one after another, in which a jump is the byte offset of where
it leads (struct ipt_entry, struct xt_entry_target; include/uapi/linux/netfilter_ipv4/ip_tables.h, .../x_tables.h). A
chain of an own name begins with an entry with target ERROR that carries the name and ends with a RETURN; a built-in one
begins at `hook_entry` and ends with its policy at `underflow`.
"""

from __future__ import annotations

import struct
from bisect import bisect_left
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HOOKS: Final = 5  # NF_INET_NUMHOOKS
FORWARD: Final = 2  # NF_INET_FORWARD
_OFFSETS: Final = struct.Struct("=HH")  # target_offset, next_offset
_OFFSETS_AT: Final = {4: 88, 16: 140}
"""Where these two are in struct ipt_entry and struct ip6t_entry, by the family's length of an address."""
_TARGET: Final = struct.Struct("=H29sB")  # target_size, name, revision
_VERDICT: Final = struct.Struct("=i")
_DROP: Final = -1  # -NF_DROP - 1
_ERROR: Final = b"ERROR"
_LAST: Final = "ERROR"  # the name that the entry after the last chain carries


class Blob(NamedTuple):
    """`length`: of the family's addresses. Offsets are bytes from the first entry; of hooks that are not in
    `valid_hooks` they mean nothing."""

    length: int
    valid_hooks: int
    hook_entry: tuple[int, ...]
    underflow: tuple[int, ...]
    number: int
    entries: bytes


class _Entry(NamedTuple):
    at: int
    size: int
    target: int
    header: str | None
    verdict: int | None

    @property
    def jump(self) -> int | None:
        """The offset of where it leads, if it jumps."""
        return self.verdict if self.verdict is not None and self.verdict >= 0 else None


def drops_forwarded(blob: Blob) -> bool:
    """Whether the policy of FORWARD is drop."""
    if not blob.valid_hooks >> FORWARD & 1:
        return False
    return any(entry.at == blob.underflow[FORWARD] and entry.verdict == _DROP for entry in _parse(blob))


def chains(blob: Blob) -> tuple[str, ...]:
    """Names of the chains that are not built in."""
    return tuple(entry.header for entry in _parse(blob) if entry.header not in (None, _LAST))


def without(blob: Blob, goes: Callable[[str], bool]) -> Blob:
    """The table without these chains and without the jumps to them from built-in ones. A chain to which somebody else's
    chain leads stays."""
    entries = list(_parse(blob))
    owner = _owners(entries)
    starts = {entry.at + entry.size: entry.header for entry in entries if entry.header is not None}
    leads = [(owner[e.at], starts[e.jump]) for e in entries if e.jump is not None and e.jump in starts]
    going = {name for name in starts.values() if name is not None and name != _LAST and goes(name)}
    roots = {to for source, to in leads if source is not None and source not in going}
    while kept := roots & going:
        going -= kept
        roots = {to for source, to in leads if source in kept}
    left = [e for e in entries if owner[e.at] not in going and (e.jump is None or starts.get(e.jump) not in going)]
    moved: dict[int, int] = {}
    size = 0
    for entry in left:
        moved[entry.at] = size
        size += entry.size
    places = list(moved)

    def new(offset: int) -> int:
        """Where what was there is, or what comes after it if it went."""
        return moved[places[bisect_left(places, offset)]]

    def hooks(offsets: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(new(at) if blob.valid_hooks >> hook & 1 else at for hook, at in enumerate(offsets))

    return blob._replace(
        hook_entry=hooks(blob.hook_entry),
        underflow=hooks(blob.underflow),
        number=len(left),
        entries=b"".join(_moved(blob, entry, None if entry.jump is None else new(entry.jump)) for entry in left),
    )


def _parse(blob: Blob) -> Iterator[_Entry]:
    at = 0
    while at < len(blob.entries):
        target, size = _OFFSETS.unpack_from(blob.entries, at + _OFFSETS_AT[blob.length])
        _, name, _ = _TARGET.unpack_from(blob.entries, at + target)
        name = name.rstrip(b"\0")
        data = at + target + _TARGET.size
        header = verdict = None
        if name == _ERROR:
            header = blob.entries[data : blob.entries.index(b"\0", data)].decode(errors="backslashreplace")
        elif not name:
            verdict = _VERDICT.unpack_from(blob.entries, data)[0]
        yield _Entry(at, size, target, header, verdict)
        at += size


def _owners(entries: list[_Entry]) -> dict[int, str | None]:
    """The chain of every entry by the entry's offset; None: a built-in one."""
    owners: dict[int, str | None] = {}
    chain: str | None = None
    for entry in entries:
        chain = entry.header if entry.header is not None else chain
        owners[entry.at] = chain
    return owners


def _moved(blob: Blob, entry: _Entry, jump: int | None) -> bytes:
    raw = bytearray(blob.entries[entry.at : entry.at + entry.size])
    if jump is not None:
        _VERDICT.pack_into(raw, entry.target + _TARGET.size, jump)
    return bytes(raw)
