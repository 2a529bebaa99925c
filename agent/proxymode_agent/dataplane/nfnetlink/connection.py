"""A connection to nf_tables: commits transactions, checks them without effect, and dumps what the kernel has.

Synchronous: the kernel works a transaction off before send(2) returns, so no acknowledgement is asked for and what can
be read afterwards without waiting is all there is to know. A connection belongs to the network namespace in which it
was made, and serves one thread. It never joins a multicast group: :mod:`.transaction` says why nobody should.
"""

from __future__ import annotations

import errno
import itertools
import os
import struct
import sys
from typing import TYPE_CHECKING, Self

import msgspec

from proxymode_agent.dataplane.base import DataplaneError
from proxymode_agent.dataplane.channel import Channel
from proxymode_agent.dataplane.nfnetlink.attributes import Attributes, encode, fields, text, to_text, to_u32
from proxymode_agent.dataplane.nfnetlink.dumps import (
    DumpedRule,
    DumpedSet,
    DumpedTable,
    parse_chain,
    parse_rule,
    parse_set,
    parse_table,
)
from proxymode_agent.dataplane.nfnetlink.elements import Element, get_elements, parse_elements, values_in
from proxymode_agent.dataplane.nfnetlink.ledger import Activity, Ledger
from proxymode_agent.dataplane.nfnetlink.objects import Chain, Set, Table
from proxymode_agent.dataplane.nfnetlink.transaction import Command, Located, Transaction
from proxymode_agent.dataplane.nfnetlink.uapi import (
    NFNL_SUBSYS_NFTABLES,
    NLMSG_DONE,
    NLMSG_ERROR,
    ElemListAttr,
    ErrorAttr,
    GenAttr,
    Message,
    MessageFlag,
    NfProto,
    RuleAttr,
    SetAttr,
)
from proxymode_agent.dataplane.nfnetlink.wire import DATAGRAM, HEADER, messages, opened

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

LOOKUPS = 500  # keys in one request; each answer takes 4 to 8 KB of the receive buffer
DUMP_ATTEMPTS = 4  # how often a dump is begun anew when the ruleset changes meanwhile

_ERROR = struct.Struct("=i")
_NFGENMSG = 4


class KernelError(msgspec.Struct, frozen=True):
    """One error of a transaction: which command (None: the transaction as such), errno, the kernel's words, and the
    element that its extended acknowledgement points at."""

    command: Command | None
    errno: int
    detail: str = ""
    element: Located | None = None

    def __str__(self) -> str:
        what = "transaction" if self.command is None else str(self.command)
        name = errno.errorcode.get(self.errno, str(self.errno))
        return f"{what}: {os.strerror(self.errno)} ({name})" + (f": {self.detail}" if self.detail else "")


class NfnetlinkError(DataplaneError):
    """The kernel refused a request. `errno` is the first error's, `errors` are all of them."""

    def __init__(self, errors: tuple[KernelError, ...]) -> None:
        more = f" (and {len(errors) - 1} more errors)" if len(errors) > 1 else ""
        super().__init__(f"nf_tables: {errors[0]}{more}")
        self.errors = errors
        self.errno = errors[0].errno


class Connection:
    """A connection to nf_tables in the current network namespace. Needs CAP_NET_ADMIN; raises DataplaneError."""

    def __init__(self) -> None:
        self._ledger = Ledger()
        self._channel = Channel(opened)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._channel.close()

    def commit(self, transaction: Transaction) -> None:
        """Apply all of it or nothing. An empty one is not sent. Raises NfnetlinkError naming what was refused."""
        if transaction:
            errors = self._send(transaction)
            if errors:
                raise NfnetlinkError(errors)
            self._ledger.note(transaction)

    def commit_all(self, transactions: Iterable[Transaction]) -> int:
        """Commit one after another up to the first error. Returns the number of kernel objects written."""
        written = 0
        for transaction in transactions:
            self.commit(transaction)
            written += transaction.objects
        return written

    def check(self, transaction: Transaction) -> tuple[KernelError, ...]:
        """What the kernel would refuse in it; nothing is changed. Modules that it needs are loaded.

        The transaction is sent with one more command that must fail, so the kernel undoes it. What the kernel looks
        at only when all commands are good (loops, hooks of expressions) is not checked.
        """
        failing = Table(NfProto.INET, f"proxymode-check-{os.getpid()}").delete()
        errors = self._send(Transaction((*transaction.commands, failing)))
        if not errors:
            raise DataplaneError("nf_tables: a transaction that must fail was accepted")
        return tuple(error for error in errors if error.command is not failing)

    def generation(self) -> int:
        """A number that changes with every transaction of anybody in this network namespace (NFT_MSG_GETGEN)."""
        for body in self._request(Message.GETGEN, NfProto.IPV4, (), MessageFlag(0), "generation"):
            return to_u32(fields(body)[GenAttr.ID])
        raise DataplaneError("nf_tables: no answer to NFT_MSG_GETGEN")

    def activity(self) -> Activity:
        """What this connection and others have committed in this network namespace since the last call."""
        return self._ledger.balance(self.generation())

    def tables(self, family: NfProto) -> list[DumpedTable]:
        """The tables of a family."""
        return [parse_table(family, body) for body in self._dump(Message.GETTABLE, family, (), f"{family} tables")]

    def chains(self, table: Table) -> list[Chain]:
        """The chains of a table, in the order in which they were made."""
        dump = self._dump(Message.GETCHAIN, table.family, (), f"chains of {table}")
        parsed = (parse_chain(table, body) for body in dump)
        return [chain for chain in parsed if chain is not None]

    def rules(self, table: Table) -> list[DumpedRule]:
        """The rules of a table, chain by chain."""
        filters: Attributes = ((RuleAttr.TABLE, text(table.name)),)
        return [parse_rule(body) for body in self._dump(Message.GETRULE, table.family, filters, f"rules of {table}")]

    def sets(self, table: Table) -> list[DumpedSet]:
        """The sets and maps of a table."""
        filters: Attributes = ((SetAttr.TABLE, text(table.name)),)
        return [parse_set(body) for body in self._dump(Message.GETSET, table.family, filters, f"sets of {table}")]

    def elements(self, of: Set) -> Iterator[Element]:
        """The elements of a set or map in no particular order. Raises NfnetlinkError; ENOENT: no such set."""
        filters: Attributes = ((ElemListAttr.TABLE, text(of.table.name)), (ElemListAttr.SET, text(of.name)))
        for body in self._dump(Message.GETSETELEM, of.table.family, filters, f"elements of {of}"):
            yield from parse_elements(of, body)

    def count(self, of: Set) -> int | None:
        """How many elements a set or map has; None where there is no such set, or Linux is older than 6.16."""
        for dumped in self.sets(of.table):
            if dumped.name == of.name and SetAttr.COUNT in dumped.attributes:
                return to_u32(dumped.attributes[SetAttr.COUNT])
        return None

    def values(self, of: Set, keys: Iterable[bytes]) -> Iterator[bytes]:
        """The values of these keys in a map, in order. Raises NfnetlinkError; ENOENT: a key is not there.

        At 2.5 us a key the time grows with the number of keys, while that of `elements` grows with the square: a dump
        walks the map from its beginning for every 32 KB (nft_rhash_walk), which takes 2 s for 250,000 elements.
        """
        rest = iter(keys)
        while batch := list(itertools.islice(rest, LOOKUPS)):
            command = get_elements(of, batch)
            values = values_in(of, command, self._answers(command))
            if values is None:
                raise NfnetlinkError((KernelError(command, errno.ENOENT),))
            yield from values

    def _answers(self, command: Command) -> list[bytes]:
        """All that the kernel answers. It has done so when send(2) returns, up to the first key that is not there."""
        try:
            self._channel.ask(command.encode(0))
            return list(self._channel.come(DATAGRAM))
        except OSError as error:
            raise NfnetlinkError((KernelError(command, error.errno or errno.EIO),)) from error

    def _send(self, transaction: Transaction) -> tuple[KernelError, ...]:
        errors: list[KernelError] = []
        try:
            self._channel.ask(transaction.encode())
            for datagram in self._channel.come(DATAGRAM):
                for kind, flags, sequence, body in messages(datagram):
                    if kind == NLMSG_ERROR and (found := _error(transaction, sequence, flags, body)) is not None:
                        errors.append(found)
        except OSError as error:  # ENOBUFS: more errors than the buffer holds
            errors.append(KernelError(None, error.errno or errno.EIO, "send or receive"))
        return tuple(errors)

    def _dump(self, message: Message, family: NfProto, filters: Attributes, what: str) -> list[memoryview]:
        return self._request(message, family, filters, MessageFlag.DUMP, what)

    def _request(
        self, message: Message, family: NfProto, attributes: Attributes, flags: MessageFlag, what: str
    ) -> list[memoryview]:
        """The answers' attributes.

        A dump during which anything in the ruleset changed is repeated some times, then taken as it is: on a node
        where somebody commits all the time every long dump is interrupted, and mostly by what is of no concern to it.
        """
        command = Command(message, flags, family, encode(attributes), "read", what)
        try:
            for _ in range(DUMP_ATTEMPTS):
                self._channel.ask(command.encode(0))
                bodies, interrupted = self._receive(command, dump=bool(flags & MessageFlag.DUMP))
                if not interrupted:
                    break
        except OSError as error:
            raise NfnetlinkError((KernelError(command, error.errno or errno.EIO),)) from error
        return bodies

    def _receive(self, command: Command, *, dump: bool) -> tuple[list[memoryview], bool]:
        """The answers' attributes up to the end of the dump, and whether the ruleset changed meanwhile."""
        bodies: list[memoryview] = []
        interrupted = False
        while True:
            for kind, flags, _, body in messages(self._channel.receive(DATAGRAM)):
                interrupted |= bool(flags & MessageFlag.DUMP_INTR)
                if kind in (NLMSG_ERROR, NLMSG_DONE):
                    self._channel.ended()
                    code = -_ERROR.unpack_from(body)[0] if len(body) >= _ERROR.size else 0
                    if code:
                        raise NfnetlinkError((KernelError(command, code),))
                    return bodies, interrupted
                if kind >> 8 == NFNL_SUBSYS_NFTABLES:
                    bodies.append(body[_NFGENMSG:])
                    if not dump:
                        self._channel.ended()
                        return bodies, interrupted


def _error(transaction: Transaction, sequence: int, flags: int, body: memoryview) -> KernelError | None:
    """A struct nlmsgerr with its extended acknowledgement; None for a plain acknowledgement (errno 0)."""
    number = -_ERROR.unpack_from(body)[0]
    if not number:
        return None
    command = transaction.commands[sequence - 1] if 0 < sequence <= len(transaction.commands) else None
    details: list[str] = []
    element: Located | None = None
    if flags & MessageFlag.ACK_TLVS:
        offending = HEADER.unpack_from(body, _ERROR.size)[0]
        skipped = HEADER.size if flags & MessageFlag.CAPPED else (offending + 3) & ~3
        tlvs = fields(body[_ERROR.size + skipped :])
        if command is not None and command.locate is not None and ErrorAttr.OFFS in tlvs:
            element = command.locate(int.from_bytes(tlvs[ErrorAttr.OFFS], sys.byteorder))
            details.append(element.text if element else "")
        if ErrorAttr.MSG in tlvs:
            details.append(to_text(tlvs[ErrorAttr.MSG]))
    return KernelError(command, number, ": ".join(filter(None, details)), element)
