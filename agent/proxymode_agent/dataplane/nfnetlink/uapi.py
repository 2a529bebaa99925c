"""The numbers of the kernel's nf_tables netlink interface, as declared tables: names and values are the header's.

Sources: include/uapi/linux/netfilter/nf_tables.h, .../netfilter/nfnetlink.h, .../linux/netlink.h,
.../linux/netfilter.h and .../netfilter/nf_conntrack_common.h. Only what this project sends or reads is here; an
`NFTA_TABLE_NAME` of the header is `TableAttr.NAME`. Integers in nf_tables attributes are big-endian. The types of
attributes are plain numbers: nobody asks for the name of one, and enumerations of them take a millisecond to make.
"""

from __future__ import annotations

from enum import IntEnum, IntFlag
from typing import Final

NETLINK_NETFILTER: Final = 12
SOL_NETLINK: Final = 270
NETLINK_CAP_ACK: Final = 10
NETLINK_EXT_ACK: Final = 11
SO_SNDBUFFORCE: Final = 32
SO_RCVBUFFORCE: Final = 33

NLMSG_ERROR: Final = 2
NLMSG_DONE: Final = 3
NLMSG_MIN_TYPE: Final = 16
NLA_F_NESTED: Final = 0x8000
NLA_TYPE_MASK: Final = 0x3FFF

NFNL_MSG_BATCH_BEGIN: Final = 16
NFNL_MSG_BATCH_END: Final = 17
NFNL_SUBSYS_NFTABLES: Final = 10

NFT_NAME_MAXLEN: Final = 256
NFT_USERDATA_MAXLEN: Final = 256
NFT_DATA_VERDICT: Final = 0xFFFFFF00
NFT_VERDICT_SIZE: Final = 16  # sizeof(struct nft_verdict)


class MessageFlag(IntFlag):
    """NLM_F_*; the values of a GET, of a NEW and of an acknowledgement share their bits."""

    REQUEST = 0x1
    DUMP_INTR = 0x10
    DUMP = 0x300
    REPLACE = 0x100
    EXCL = 0x200
    CREATE = 0x400
    APPEND = 0x800
    CAPPED = 0x100
    ACK_TLVS = 0x200


class ErrorAttr:
    """enum nlmsgerr_attrs: extended acknowledgement."""

    MSG = 1
    OFFS = 2


class NfProto(IntEnum):
    """NFPROTO_*: the family of a table."""

    INET = 1
    IPV4 = 2
    IPV6 = 10

    def __str__(self) -> str:
        return {NfProto.INET: "inet", NfProto.IPV4: "ip", NfProto.IPV6: "ip6"}[self]


class Message(IntEnum):
    """enum nf_tables_msg_types."""

    NEWTABLE = 0
    GETTABLE = 1
    DELTABLE = 2
    NEWCHAIN = 3
    GETCHAIN = 4
    DELCHAIN = 5
    NEWRULE = 6
    GETRULE = 7
    DELRULE = 8
    NEWSET = 9
    GETSET = 10
    DELSET = 11
    NEWSETELEM = 12
    GETSETELEM = 13
    DELSETELEM = 14
    NEWGEN = 15
    GETGEN = 16


class GenAttr:
    ID = 1


class ListAttr:
    ELEM = 1


class TableAttr:
    NAME = 1
    FLAGS = 2
    USE = 3
    HANDLE = 4
    USERDATA = 6


class ChainAttr:
    TABLE = 1
    HANDLE = 2
    NAME = 3
    HOOK = 4
    POLICY = 5
    USE = 6
    TYPE = 7
    USERDATA = 12


class HookAttr:
    HOOKNUM = 1
    PRIORITY = 2


class HookNumber(IntEnum):
    """enum nf_inet_hooks."""

    PREROUTING = 0
    INPUT = 1
    FORWARD = 2
    OUTPUT = 3
    POSTROUTING = 4
    INGRESS = 5


class Policy(IntEnum):
    """NF_DROP, NF_ACCEPT."""

    DROP = 0
    ACCEPT = 1


class RuleAttr:
    TABLE = 1
    CHAIN = 2
    HANDLE = 3
    EXPRESSIONS = 4
    USERDATA = 7


class ExprAttr:
    NAME = 1
    DATA = 2


class SetFlag(IntFlag):
    ANONYMOUS = 0x1
    CONSTANT = 0x2
    INTERVAL = 0x4
    MAP = 0x8
    TIMEOUT = 0x10
    EVAL = 0x20
    CONCAT = 0x80


class SetAttr:
    TABLE = 1
    NAME = 2
    FLAGS = 3
    KEY_TYPE = 4
    KEY_LEN = 5
    DATA_TYPE = 6
    DATA_LEN = 7
    DESC = 9
    ID = 10
    USERDATA = 13
    COUNT = 20  # since Linux 6.16


class SetDescAttr:
    SIZE = 1
    CONCAT = 2


class SetFieldAttr:
    LEN = 1


class ElemListAttr:
    TABLE = 1
    SET = 2
    ELEMENTS = 3


class ElemAttr:
    KEY = 1
    DATA = 2
    TIMEOUT = 4
    KEY_END = 10


class DataAttr:
    VALUE = 1
    VERDICT = 2


class VerdictAttr:
    CODE = 1
    CHAIN = 2


class VerdictCode(IntEnum):
    """enum nft_verdicts and NF_DROP, NF_ACCEPT."""

    DROP = 0
    ACCEPT = 1
    JUMP = -3
    GOTO = -4
    RETURN = -5


class ImmediateAttr:
    DREG = 1
    DATA = 2


class BitwiseAttr:
    SREG = 1
    DREG = 2
    LEN = 3
    MASK = 4
    XOR = 5
    OP = 6


class CmpOp(IntEnum):
    EQ = 0
    NEQ = 1


class CmpAttr:
    SREG = 1
    OP = 2
    DATA = 3


class LookupFlag(IntFlag):
    INV = 1


class LookupAttr:
    SET = 1
    SREG = 2
    DREG = 3
    FLAGS = 5


class DynsetOp(IntEnum):
    UPDATE = 1
    DELETE = 2


class DynsetAttr:
    SET_NAME = 1
    OP = 3
    SREG_KEY = 4
    SREG_DATA = 5
    TIMEOUT = 6


class PayloadBase(IntEnum):
    NETWORK_HEADER = 1
    TRANSPORT_HEADER = 2


class PayloadAttr:
    DREG = 1
    BASE = 2
    OFFSET = 3
    LEN = 4


class MetaKey(IntEnum):
    PRIORITY = 2
    MARK = 3
    IIFNAME = 6
    OIFNAME = 7
    L4PROTO = 16


class MetaAttr:
    DREG = 1
    KEY = 2
    SREG = 3


class CtKey(IntEnum):
    STATE = 0
    DIRECTION = 1
    STATUS = 2
    MARK = 3
    PROTO_SRC = 11
    PROTO_DST = 12
    SRC_IP = 19
    DST_IP = 20
    SRC_IP6 = 21
    DST_IP6 = 22


class CtAttr:
    DREG = 1
    KEY = 2
    DIRECTION = 3
    SREG = 4


class CtState(IntFlag):
    """NF_CT_STATE_BIT of enum ip_conntrack_info, as `ct state` loads it (host byte order)."""

    INVALID = 0x1
    ESTABLISHED = 0x2
    RELATED = 0x4
    NEW = 0x8


class CtStatus(IntFlag):
    """IPS_* of enum ip_conntrack_status, as `ct status` loads it (host byte order)."""

    SNAT = 0x10
    DNAT = 0x20


class NatType(IntEnum):
    SNAT = 0
    DNAT = 1


class NatAttr:
    TYPE = 1
    FAMILY = 2
    REG_ADDR_MIN = 3
    REG_ADDR_MAX = 4
    REG_PROTO_MIN = 5
    REG_PROTO_MAX = 6
    FLAGS = 7


class NatFlag(IntFlag):
    """NF_NAT_RANGE_*."""

    MAP_IPS = 0x1
    PROTO_SPECIFIED = 0x2
    PROTO_RANDOM_FULLY = 0x10


class MasqAttr:
    FLAGS = 1


class RejectType(IntEnum):
    ICMP_UNREACH = 0
    TCP_RST = 1


class RejectAttr:
    TYPE = 1
    ICMP_CODE = 2


class FibAttr:
    DREG = 1
    RESULT = 2
    FLAGS = 3


class FibResult(IntEnum):
    ADDRTYPE = 3


class FibFlag(IntFlag):
    SADDR = 0x1
    DADDR = 0x2


class NumgenType(IntEnum):
    INCREMENTAL = 0
    RANDOM = 1


class NumgenAttr:
    DREG = 1
    MODULUS = 2
    TYPE = 3
    OFFSET = 4
