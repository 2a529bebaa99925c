"""Questions to nf_tables about what a proxy has written, in microseconds: one element by key, the rules of one chain,
the elements of one map. For any table; what the answers mean is the asker's business."""

from __future__ import annotations

import errno
import os
import socket
import struct
from typing import TYPE_CHECKING, Final

from proxymode_agent.dataplane.nfnetlink.attributes import encode, fields, text
from proxymode_agent.dataplane.nfnetlink.uapi import (
    NETLINK_NETFILTER,
    DataAttr,
    ElemAttr,
    ElemListAttr,
    Message,
    NfProto,
    RuleAttr,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_LIST_ELEMENT: Final = 1  # NFTA_LIST_ELEM
_NFNL_SUBSYS_NFTABLES: Final = 10
_NLM_F_REQUEST: Final = 1
_NLM_F_DUMP: Final = 0x300
_NLM_F_DUMP_INTR: Final = 0x10
_HEADER: Final = struct.Struct("=IHHII")  # struct nlmsghdr
_FAMILY: Final = struct.Struct("=BBH")  # struct nfgenmsg
_NLMSG_ERROR: Final = 2
_NLMSG_DONE: Final = 3


class NfTables:
    """A table of family ip, asked by netlink."""

    def __init__(self, table: str) -> None:
        self._table = table
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_NETFILTER)
        self._socket.bind((0, 0))

    def close(self) -> None:
        self._socket.close()

    def element(self, map_name: str, key: bytes) -> Mapping[int, memoryview] | None:
        """The data of an element (attributes NFTA_DATA_*); None: there is no such key. Raises OSError."""
        wanted = (_LIST_ELEMENT, ((ElemAttr.KEY, ((DataAttr.VALUE, key),)),))
        body = self._set(map_name) + encode(((ElemListAttr.ELEMENTS, (wanted,)),))
        for answer in self._ask(Message.GETSETELEM, body, dump=False):
            found = fields(answer)
            return fields(fields(fields(found[ElemListAttr.ELEMENTS])[_LIST_ELEMENT])[ElemAttr.DATA])
        return None

    def elements(self, map_name: str) -> bytes:
        """All elements of a set or map, as the kernel dumps them; empty where there is none. Raises OSError."""
        return b"".join(self._ask(Message.GETSETELEM, self._set(map_name), dump=True))

    def rules(self, chain: str) -> bytes:
        """All rules of a chain, as the kernel dumps them; empty where there is none. Raises OSError."""
        body = encode(((RuleAttr.TABLE, text(self._table)), (RuleAttr.CHAIN, text(chain))))
        return b"".join(self._ask(Message.GETRULE, body, dump=True))

    def _set(self, name: str) -> bytes:
        return encode(((ElemListAttr.TABLE, text(self._table)), (ElemListAttr.SET, text(name))))

    def _ask(self, message: Message, body: bytes, *, dump: bool) -> Iterator[bytes]:
        """The bodies of the answers. What is not there has none; nor has a dump that an update came across."""
        kind = _NFNL_SUBSYS_NFTABLES << 8 | message
        flags = _NLM_F_REQUEST | (_NLM_F_DUMP if dump else 0)
        body = _FAMILY.pack(NfProto.IPV4, 0, 0) + body
        self._socket.send(_HEADER.pack(_HEADER.size + len(body), kind, flags, 1, 0) + body)
        found: list[bytes] = []
        whole = True
        while True:
            data, offset = self._socket.recv(1 << 18), 0
            while offset < len(data):
                length, kind, flags, _, _ = _HEADER.unpack_from(data, offset)
                whole = whole and not flags & _NLM_F_DUMP_INTR
                if kind == _NLMSG_ERROR:
                    number = -struct.unpack_from("=i", data, offset + _HEADER.size)[0]
                    if number == errno.ENOENT:
                        return iter(())
                    raise OSError(number, os.strerror(number), f"nf_tables message {message.name}")
                if kind == _NLMSG_DONE:
                    return iter(found if whole else ())
                found.append(data[offset + _HEADER.size + _FAMILY.size : offset + length])
                offset += length + -length % 4
            if not dump:
                return iter(found)
