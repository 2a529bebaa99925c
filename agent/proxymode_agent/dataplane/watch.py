"""I/O: tells whether somebody else changed our nf_tables tables, without reading their elements.

Each look asks the kernel for its generation, a microsecond. Only when others have committed are tables, chains, rules
and sets listed, a millisecond or two, and compared with what we left. The multicast group that would announce every
change is not joined: while anybody listens to it, every commit on the machine costs memory for each of its elements.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from proxymode_agent.dataplane.base import Finding, Look
from proxymode_agent.dataplane.nfnetlink.attributes import to_u32
from proxymode_agent.dataplane.nfnetlink.ledger import SetName
from proxymode_agent.dataplane.nfnetlink.uapi import SetAttr, SetFlag
from proxymode_agent.dataplane.shape import Shape, differences

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from proxymode_agent.dataplane.nfnetlink import Connection, DumpedSet, Table
    from proxymode_agent.dataplane.nfnetlink.ledger import Activity

_READS: Final = 3  # of the shape, while others commit in between


class Watch:
    """`activity`: who has committed since the last call; `read`: what ours looks like. Both raise DataplaneError."""

    def __init__(self, activity: Callable[[], Activity], read: Callable[[], Shape]) -> None:
        self._activity = activity
        self._read = read
        self._expected: Shape | None = None
        self._unread = False  # somebody wrote while the shape was read last

    def begin(self) -> None:
        """To be called before the kernel is read back: what others do from now on is told by the next look."""
        self._activity()
        self._expected = self._read()
        self._unread = False

    def look(self) -> Look:
        """What others did since the last look, or since `begin`."""
        activity = self._activity()
        wrote = bool(activity.others) or self._unread
        expected = None if self._expected is None or activity.rebuilt else self._expected.grown(activity.grown)
        if expected is not None and not wrote:
            self._expected = expected
            return Look(Finding.UNTOUCHED)
        found, disturbed = self._read_undisturbed()
        self._expected = found
        if expected is None:
            # Our own new rules are in `found`, and so may be somebody's: only if nobody wrote it is what we left.
            return Look(Finding.DOUBTFUL if wrote or disturbed else Finding.UNTOUCHED)
        changed = differences(expected, found)
        if changed:
            return Look(Finding.DOUBTFUL) if self._unread else Look(Finding.CHANGED, changed)
        return Look(Finding.NOTHING_SEEN if found.counted else Finding.DOUBTFUL)

    def _read_undisturbed(self) -> tuple[Shape, bool]:
        """The shape, read while nobody wrote, so that its parts belong together (`_unread`: that did not succeed), and
        whether anybody wrote before that."""
        disturbed = False
        for _ in range(_READS):
            found = self._read()
            self._unread = bool(self._activity().others)
            disturbed |= self._unread
            if not self._unread:
                break
        return found, disturbed


class TableWatch(Watch):
    """Over the tables of one connection, which writes to them alone."""

    def __init__(self, kernel: Connection, tables: Iterable[Table]) -> None:
        super().__init__(kernel.activity, partial(read_shape, kernel, tuple(tables)))


def read_shape(kernel: Connection, tables: Iterable[Table]) -> Shape:
    """The tables as they are now, those that exist."""
    parts: dict[str, bytes] = {}
    counts: dict[SetName, int] = {}
    counted = True
    for table in tables:
        found = next((found for found in kernel.tables(table.family) if found.table.name == table.name), None)
        if found is None:
            continue
        parts[str(table)] = bytes([found.dormant])
        sets = kernel.sets(table)
        for dumped in sets:
            content = b"".join(_fixed(dumped))
            parts[f"set {table.family} {table.name} {dumped.name}"] = content
            if to_u32(dumped.attributes.get(SetAttr.FLAGS, bytes(4))) & (SetFlag.TIMEOUT | SetFlag.EVAL):
                continue
            if SetAttr.COUNT in dumped.attributes:
                counts[SetName(table.family, table.name, dumped.name)] = to_u32(dumped.attributes[SetAttr.COUNT])
            else:
                counted = False
        rules: dict[str, list[bytes]] = {}
        for rule in kernel.rules(table):
            rules.setdefault(rule.chain, []).append(bytes(rule.expressions))
        for chain in kernel.chains(table):
            parts[str(chain)] = repr(chain.hook).encode() + b"".join(rules.get(chain.name, ()))
    return Shape(parts, counts, counted)


def _fixed(dumped: DumpedSet) -> Iterator[bytes]:
    """What of a set stays while elements come and go."""
    return (bytes(value) for kind, value in dumped.attributes.items() if kind != SetAttr.COUNT)
