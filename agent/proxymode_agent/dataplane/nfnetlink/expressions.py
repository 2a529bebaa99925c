"""nf_tables expressions: the instructions that a rule is made of, as values.

A rule's expressions work on registers. Here a register is the number 0–15 of a 32-bit register; the encoder writes
NFT_REG32_* or, where the kernel itself would dump it so, NFT_REG_1–4. Written as nft(8) 1.0.6 writes them, so that
`nft list ruleset` prints every rule made of these, and so that a dump can be compared with what was sent.
"""

from __future__ import annotations

import sys

import msgspec

from proxymode_agent.dataplane.nfnetlink.attributes import Attributes, text, u32
from proxymode_agent.dataplane.nfnetlink.uapi import (
    BitwiseAttr,
    CmpAttr,
    CmpOp,
    CtAttr,
    CtKey,
    CtState,
    CtStatus,
    DataAttr,
    DynsetAttr,
    DynsetOp,
    ExprAttr,
    FibAttr,
    FibFlag,
    FibResult,
    ImmediateAttr,
    LookupAttr,
    LookupFlag,
    MasqAttr,
    MetaAttr,
    MetaKey,
    NatAttr,
    NatFlag,
    NatType,
    NfProto,
    NumgenAttr,
    NumgenType,
    PayloadAttr,
    PayloadBase,
    RejectAttr,
    RejectType,
    VerdictAttr,
    VerdictCode,
)

VERDICT_REGISTER = 0  # NFT_REG_VERDICT
IFNAMSIZ = 16  # include/uapi/linux/if.h
RTN_LOCAL = 2  # include/uapi/linux/rtnetlink.h
ICMP_PORT_UNREACH = 3
ICMPV6_PORT_UNREACH = 4


class Expression(msgspec.Struct, frozen=True):
    """One instruction: the name of the kernel's expression type and its attributes."""

    name: str
    attributes: Attributes

    @property
    def attribute(self) -> Attributes:
        """The content of an NFTA_LIST_ELEM."""
        return ((ExprAttr.NAME, text(self.name)), (ExprAttr.DATA, self.attributes))

    def __str__(self) -> str:
        return f"{self.name}({_shown(self.attributes)})"


def _shown(attributes: Attributes) -> str:
    shown: list[str] = []
    for kind, value in attributes:
        name = str(getattr(kind, "name", kind)).lower()
        shown.append(f"{name}=({_shown(value)})" if isinstance(value, tuple) else f"{name}={value.hex()}")
    return " ".join(shown)


def register(number: int) -> bytes:
    """The attribute value for 32-bit register 0–15, in the form in which the kernel dumps it."""
    if not 0 <= number < 16:
        raise ValueError(f"nf_tables has 32-bit registers 0 to 15, not {number}")
    return u32(1 + number // 4 if number % 4 == 0 else 8 + number)


def host_u32(value: int) -> bytes:
    """A number as a register holds it where the kernel loads host byte order (mark, ct state, fib type, numgen)."""
    return value.to_bytes(4, sys.byteorder)


def payload(base: PayloadBase, offset: int, length: int, dreg: int) -> Expression:
    """Load `length` bytes at `offset` of a header."""
    return Expression(
        "payload",
        (
            (PayloadAttr.DREG, register(dreg)),
            (PayloadAttr.BASE, u32(base)),
            (PayloadAttr.OFFSET, u32(offset)),
            (PayloadAttr.LEN, u32(length)),
        ),
    )


def meta(key: MetaKey, dreg: int) -> Expression:
    """Load packet meta data."""
    return Expression("meta", ((MetaAttr.KEY, u32(key)), (MetaAttr.DREG, register(dreg))))


def set_meta(key: MetaKey, sreg: int) -> Expression:
    """Store packet meta data."""
    return Expression("meta", ((MetaAttr.KEY, u32(key)), (MetaAttr.SREG, register(sreg))))


def ct(key: CtKey, dreg: int, direction: int | None = None) -> Expression:
    """Load a property of the packet's conntrack entry; `direction`: 0 original, 1 reply, for keys that have one."""
    attributes: Attributes = ((CtAttr.KEY, u32(key)), (CtAttr.DREG, register(dreg)))
    if direction is not None:
        attributes += ((CtAttr.DIRECTION, bytes([direction])),)
    return Expression("ct", attributes)


def cmp(sreg: int, value: bytes, op: CmpOp = CmpOp.EQ) -> Expression:
    """Go on with the rule if the register compares so with `value`."""
    return Expression(
        "cmp",
        ((CmpAttr.SREG, register(sreg)), (CmpAttr.OP, u32(op)), (CmpAttr.DATA, ((DataAttr.VALUE, value),))),
    )


def bitwise(reg: int, mask: bytes, xor: bytes) -> Expression:
    """Register := (register & mask) ^ xor; mask and xor have the operand's length."""
    return Expression(
        "bitwise",
        (
            (BitwiseAttr.SREG, register(reg)),
            (BitwiseAttr.DREG, register(reg)),
            (BitwiseAttr.LEN, u32(len(mask))),
            (BitwiseAttr.OP, u32(0)),
            (BitwiseAttr.MASK, ((DataAttr.VALUE, mask),)),
            (BitwiseAttr.XOR, ((DataAttr.VALUE, xor),)),
        ),
    )


def lookup(set_name: str, sreg: int, *, invert: bool = False) -> Expression:
    """Go on if the key in the registers from `sreg` is in the set."""
    return Expression(
        "lookup",
        (
            (LookupAttr.SET, text(set_name)),
            (LookupAttr.SREG, register(sreg)),
            (LookupAttr.FLAGS, u32(LookupFlag.INV if invert else 0)),
        ),
    )


def lookup_map(map_name: str, sreg: int, dreg: int) -> Expression:
    """Load the value for the key in the registers from `sreg`; without such an element the rule ends here."""
    return Expression(
        "lookup",
        (
            (LookupAttr.SET, text(map_name)),
            (LookupAttr.SREG, register(sreg)),
            (LookupAttr.DREG, register(dreg)),
            (LookupAttr.FLAGS, u32(0)),
        ),
    )


def lookup_verdict(map_name: str, sreg: int) -> Expression:
    """Do what the verdict map says for the key in the registers from `sreg`; without such an element the rule ends."""
    return Expression(
        "lookup",
        (
            (LookupAttr.SET, text(map_name)),
            (LookupAttr.SREG, register(sreg)),
            (LookupAttr.DREG, u32(VERDICT_REGISTER)),
            (LookupAttr.FLAGS, u32(0)),
        ),
    )


def numgen_random(modulus: int, dreg: int, offset: int = 0) -> Expression:
    """Load a random number from `offset` to offset + modulus - 1 (host byte order)."""
    return Expression(
        "numgen",
        (
            (NumgenAttr.DREG, register(dreg)),
            (NumgenAttr.MODULUS, u32(modulus)),
            (NumgenAttr.TYPE, u32(NumgenType.RANDOM)),
            (NumgenAttr.OFFSET, u32(offset)),
        ),
    )


def update_element(map_name: str, key: int, data: int, timeout_seconds: int) -> Expression:
    """Add the key in the registers from `key` with the value in register `data` to a dynamic map; if it is there, its
    timeout begins anew and its value stays. The rule ends here if the map is full."""
    return _dynset(map_name, DynsetOp.UPDATE, key, data, ((DynsetAttr.TIMEOUT, _milliseconds(timeout_seconds)),))


def delete_element(map_name: str, key: int, data: int) -> Expression:
    """Delete a key from a dynamic map; `data`: any register, the kernel wants one for a map."""
    return _dynset(map_name, DynsetOp.DELETE, key, data, ())


def _dynset(name: str, op: DynsetOp, key: int, data: int, more: Attributes) -> Expression:
    attributes: Attributes = (
        (DynsetAttr.SREG_KEY, register(key)),
        (DynsetAttr.SREG_DATA, register(data)),
        (DynsetAttr.OP, u32(op)),
        *more,
        (DynsetAttr.SET_NAME, text(name)),
    )
    return Expression("dynset", attributes)


def _milliseconds(seconds: int) -> bytes:
    return (1000 * seconds).to_bytes(8, "big")


def verdict_data(code: VerdictCode, chain: str | None = None) -> Attributes:
    """The attributes of a verdict, as in a rule or as the data of a verdict map's element."""
    verdict: Attributes = ((VerdictAttr.CODE, u32(code)),)
    if chain is not None:
        verdict += ((VerdictAttr.CHAIN, text(chain)),)
    return ((DataAttr.VERDICT, verdict),)


def verdict(code: VerdictCode, chain: str | None = None) -> Expression:
    """End the rule with a verdict; `chain` for jump and goto."""
    return Expression(
        "immediate",
        ((ImmediateAttr.DREG, u32(VERDICT_REGISTER)), (ImmediateAttr.DATA, verdict_data(code, chain))),
    )


def immediate(dreg: int, value: bytes) -> Expression:
    """Load a constant."""
    return Expression(
        "immediate", ((ImmediateAttr.DREG, register(dreg)), (ImmediateAttr.DATA, ((DataAttr.VALUE, value),)))
    )


def nat(kind: NatType, family: NfProto, address: int, port: int) -> Expression:
    """NAT to the address in the registers from `address` and the port in register `port`."""
    return Expression(
        "nat",
        (
            (NatAttr.TYPE, u32(kind)),
            (NatAttr.FAMILY, u32(family)),
            (NatAttr.REG_ADDR_MIN, register(address)),
            (NatAttr.REG_ADDR_MAX, register(address)),
            (NatAttr.REG_PROTO_MIN, register(port)),
            (NatAttr.REG_PROTO_MAX, register(port)),
            (NatAttr.FLAGS, u32(NatFlag.MAP_IPS | NatFlag.PROTO_SPECIFIED)),
        ),
    )


def dnat(family: NfProto, address: int, port: int) -> Expression:
    """Destination NAT, as `nat`."""
    return nat(NatType.DNAT, family, address, port)


def masquerade() -> Expression:
    """Source NAT to the address of the outgoing interface, source port fully at random."""
    return Expression("masq", ((MasqAttr.FLAGS, u32(NatFlag.PROTO_RANDOM_FULLY)),))


def reject(family: NfProto) -> Expression:
    """Answer ICMP(v6) port unreachable and drop."""
    code = {NfProto.IPV4: ICMP_PORT_UNREACH, NfProto.IPV6: ICMPV6_PORT_UNREACH}[family]
    return Expression(
        "reject", ((RejectAttr.TYPE, u32(RejectType.ICMP_UNREACH)), (RejectAttr.ICMP_CODE, bytes([code])))
    )


def fib_address_type(flag: FibFlag, dreg: int) -> Expression:
    """Load the routing table's type (RTN_*) of the source or destination address."""
    return Expression(
        "fib",
        ((FibAttr.DREG, register(dreg)), (FibAttr.RESULT, u32(FibResult.ADDRTYPE)), (FibAttr.FLAGS, u32(flag))),
    )


def ct_state(states: CtState) -> tuple[Expression, ...]:
    """`ct state A,B`: go on if the packet's state is one of them."""
    return _any_bit(ct(CtKey.STATE, 0), states)


def ct_status(status: CtStatus) -> tuple[Expression, ...]:
    """`ct status A`: go on if any of the bits is set."""
    return _any_bit(ct(CtKey.STATUS, 0), status)


def mark_has(bit: int) -> tuple[Expression, ...]:
    """`meta mark & bit != 0`."""
    return _any_bit(meta(MetaKey.MARK, 0), bit)


def set_mark_bit(bit: int) -> tuple[Expression, ...]:
    """`meta mark set meta mark | bit`."""
    mask = bit ^ 0xFFFFFFFF
    return meta(MetaKey.MARK, 0), bitwise(0, host_u32(mask), host_u32(bit)), set_meta(MetaKey.MARK, 0)


def flip_mark_bit(bit: int) -> tuple[Expression, ...]:
    """`meta mark set meta mark ^ bit`."""
    return meta(MetaKey.MARK, 0), bitwise(0, host_u32(0xFFFFFFFF), host_u32(bit)), set_meta(MetaKey.MARK, 0)


def address_is_local(flag: FibFlag) -> tuple[Expression, ...]:
    """`fib saddr|daddr type local`."""
    return fib_address_type(flag, 0), cmp(0, host_u32(RTN_LOCAL))


def came_in_by(interface: str, *, prefix: bool = False) -> tuple[Expression, ...]:
    """`iifname "cni0"`, or with `prefix` `iifname "veth*"`: go on if the packet came in by such an interface."""
    name = interface.encode()
    value = name if prefix else name.ljust(IFNAMSIZ, b"\0")
    return meta(MetaKey.IIFNAME, 0), cmp(0, value)


def _any_bit(load: Expression, bits: int) -> tuple[Expression, ...]:
    return load, bitwise(0, host_u32(bits), host_u32(0)), cmp(0, host_u32(0), CmpOp.NEQ)
