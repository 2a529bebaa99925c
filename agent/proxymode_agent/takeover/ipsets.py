"""I/O: the ipsets of a network namespace, over netlink: their names, and their end.

Four messages of the family NFNL_SUBSYS_IPSET (include/uapi/linux/netfilter/ipset/ip_set.h). Asking a kernel that has
not loaded ip_set would load it, and there is nothing to find then: so it is not asked.
"""

from __future__ import annotations

import errno
import os
import struct
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from proxymode_agent.dataplane.base import DataplaneError
from proxymode_agent.dataplane.netlink import Message, NetlinkSocket
from proxymode_agent.dataplane.nfnetlink.attributes import encode, fields, text, to_text

if TYPE_CHECKING:
    from collections.abc import Iterable

_NETLINK_NETFILTER: Final = 12
_SUBSYSTEM: Final = 6 << 8  # NFNL_SUBSYS_IPSET
_DESTROY: Final = 3
_LIST: Final = 7
_ATTR_PROTOCOL: Final = 1
_ATTR_SETNAME: Final = 2
_ATTR_FLAGS: Final = 6
_NET_BYTEORDER: Final = 1 << 14
_LIST_SETNAME: Final = 1 << 1  # IPSET_FLAG_LIST_SETNAME
_PROTOCOL: Final = (_ATTR_PROTOCOL, b"\x06")  # IPSET_PROTOCOL_MIN, which every kernel since 3.0 takes
_NFGENMSG: Final = struct.Struct("=BBH")
_IPSET_ERR_BUSY: Final = 4100  # IPSET_ERR_PRIVATE 4096
_BUSY_SECONDS: Final = 10.0
_POLL_SECONDS: Final = 0.02


class IpSets:
    """The ipsets of the network namespace that this object was made in. Raises DataplaneError and OSError."""

    def __init__(self) -> None:
        self._netlink = NetlinkSocket(_NETLINK_NETFILTER) if Path("/sys/module/ip_set").exists() else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._netlink is not None:
            self._netlink.close()

    def names(self) -> list[str]:
        """All sets."""
        if self._netlink is None:
            return []
        flags = (_ATTR_FLAGS | _NET_BYTEORDER, struct.pack(">I", _LIST_SETNAME))
        answers = self._netlink.dump(_SUBSYSTEM | _LIST, _NFGENMSG.pack(0, 0, 0) + encode([_PROTOCOL, flags]))
        return [
            to_text(found[_ATTR_SETNAME])
            for _, body in answers
            if _ATTR_SETNAME in (found := fields(body[_NFGENMSG.size :]))
        ]

    def destroy(self, names: Iterable[str]) -> None:
        """Destroy these sets. One that was in a rule stays busy for a moment after the rule's end, since the kernel
        lets go of it in a work queue (nf_tables_trans_destroy_work); that is waited for. Gone already is fine."""
        left = list(names)
        deadline = time.monotonic() + _BUSY_SECONDS
        while left and self._netlink is not None:
            refused = self._netlink.transact([self._destruction(name) for name in left])
            for number, error in refused.items():
                if error not in (errno.ENOENT, errno.EBUSY, _IPSET_ERR_BUSY):
                    raise DataplaneError(f"cannot destroy ipset {left[number]}: {os.strerror(error)}")
            left = [left[number] for number, error in sorted(refused.items()) if error != errno.ENOENT]
            if left and time.monotonic() > deadline:
                raise DataplaneError(f"ipset {left[0]} is in use after {_BUSY_SECONDS:g} s: who has a rule with it?")
            if left:
                time.sleep(_POLL_SECONDS)

    @staticmethod
    def _destruction(name: str) -> Message:
        body = _NFGENMSG.pack(0, 0, 0) + encode([_PROTOCOL, (_ATTR_SETNAME, text(name))])
        return Message(_SUBSYSTEM | _DESTROY, 0, body)
