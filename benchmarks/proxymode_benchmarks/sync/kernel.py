"""A network namespace of our own, and the endpoints that the agent has put into its kernel.

Elements are looked up one by one, by key: that takes microseconds, where a dump of the map takes a second. Only for the
agent's layout; what kube-proxy's ruleset holds is known when `nft -f` returns.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct
import subprocess
from typing import Final

from proxymode_agent.dataplane.nfnetlink import Connection
from proxymode_agent.dataplane.nfnetlink.attributes import encode, fields, text
from proxymode_agent.dataplane.nfnetlink.uapi import (
    NETLINK_NETFILTER,
    DataAttr,
    ElemAttr,
    ElemListAttr,
    Message,
    NfProto,
)
from proxymode_agent.dataplane.nftables.elements import indices, pack_endpoints, service_key
from proxymode_agent.dataplane.nftables.layout import layout
from proxymode_agent.services.model import DataplaneConfig, Endpoint, Family, Frontend, Protocol
from proxymode_benchmarks.sync.cases import CLIENT_ADDRESS, PORT, PROBE_ADDRESS, TARGET_PORT, cluster_ip

CLONE_NEWNET: Final = 0x40000000  # linux/sched.h
_LIST_ELEMENT: Final = 1  # NFTA_LIST_ELEM
_NFNL_SUBSYS_NFTABLES: Final = 10
_NLM_F_REQUEST: Final = 1
_HEADER: Final = struct.Struct("=IHHII")  # struct nlmsghdr
_FAMILY: Final = struct.Struct("=BBH")  # struct nfgenmsg
_NLMSG_ERROR: Final = 2


def own_namespace() -> None:
    """Move this process, which must have no second thread yet, into a new network namespace that ends with it.

    All of 10.0.0.0/8 is reached by its loopback interface, so that a connect() to a cluster IP has a route.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNET) != 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error), "unshare(CLONE_NEWNET); root is needed")
    addresses = [f"address add {address}/32 dev lo" for address in (PROBE_ADDRESS, CLIENT_ADDRESS)]
    for command in ("link set lo up", *addresses, "route add 10.0.0.0/8 dev lo"):
        subprocess.run(["ip", *command.split()], check=True)


def generation() -> int:
    """Changes with every transaction that anybody makes in this namespace."""
    with Connection() as kernel:
        return kernel.generation()


class EndpointMap:
    """The agent's map of endpoints, as the kernel has it."""

    def __init__(self) -> None:
        endpoints = layout(Family.IPV4, DataplaneConfig(), "benchmark").services.endpoints
        self._head = encode(
            ((ElemListAttr.TABLE, text(endpoints.table.name)), (ElemListAttr.SET, text(endpoints.name)))
        )
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_NETFILTER)
        self._socket.bind((0, 0))

    def close(self) -> None:
        self._socket.close()

    def index(self, service: int, address: str, count: int) -> int:
        """The index that one of a Service's `count` endpoints has. Raises LookupError: it is not there."""
        for index in range(count):
            if self.holds(service, index, address):
                return index
        raise LookupError(f"no endpoint {address} of Service {service} ({cluster_ip(service)}) in the kernel")

    def holds(self, service: int, index: int, address: str) -> bool:
        """Whether this is the endpoint with this index. Raises OSError."""
        frontend = Frontend(socket.inet_aton(cluster_ip(service)), Protocol.TCP, PORT)
        (wanted,) = pack_endpoints([Endpoint(socket.inet_aton(address), TARGET_PORT)])
        return self._get(service_key(frontend) + indices(index + 1)[index]) == wanted

    def _get(self, key: bytes) -> bytes | None:
        element = (_LIST_ELEMENT, ((ElemAttr.KEY, ((DataAttr.VALUE, key),)),))
        body = _FAMILY.pack(NfProto.IPV4, 0, 0) + self._head + encode(((ElemListAttr.ELEMENTS, (element,)),))
        kind = _NFNL_SUBSYS_NFTABLES << 8 | Message.GETSETELEM
        self._socket.send(_HEADER.pack(_HEADER.size + len(body), kind, _NLM_F_REQUEST, 1, 0) + body)
        answer = self._socket.recv(65536)
        _, kind, _, _, _ = _HEADER.unpack_from(answer)
        if kind == _NLMSG_ERROR:
            number = -struct.unpack_from("=i", answer, _HEADER.size)[0]
            if number == errno.ENOENT:
                return None
            raise OSError(number, os.strerror(number), "NFT_MSG_GETSETELEM")
        found = fields(answer[_HEADER.size + _FAMILY.size :])
        data = fields(fields(fields(found[ElemListAttr.ELEMENTS])[_LIST_ELEMENT])[ElemAttr.DATA])
        return bytes(data[DataAttr.VALUE])
