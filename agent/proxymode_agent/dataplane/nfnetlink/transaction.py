"""Commands and transactions: what is to be sent, as values to look at, count, cut into pieces and print.

The kernel applies a transaction as a whole or not at all (struct nfgenmsg batches, net/netfilter/nfnetlink.c).
It keeps memory for each of its objects until it ends, and while anybody on the machine listens to nf_tables events
several kilobytes for each element: bulk work goes in transactions of one message each (:func:`one_by_one`).
"""

from __future__ import annotations

import socket
import struct
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from proxymode_agent.dataplane.nfnetlink.uapi import (
    NFNL_MSG_BATCH_BEGIN,
    NFNL_MSG_BATCH_END,
    NFNL_SUBSYS_NFTABLES,
    Message,
    MessageFlag,
    NfProto,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

HEADERS = struct.Struct("=IHHIIBBH")  # struct nlmsghdr, struct nfgenmsg (res_id is big-endian)
_REQUEST = int(MessageFlag.REQUEST)
_RES_ID = socket.htons(NFNL_SUBSYS_NFTABLES)


class Located(NamedTuple):
    """An element that an error points at: its set's name, its key, and the key for people."""

    set_name: str
    key: bytes
    text: str


class Command(msgspec.Struct, frozen=True):
    """One message of a transaction. `verb` and `subject` say for people what it does, should they ask; `objects`: to
    how many kernel objects. `locate` finds the element that begins at a byte of the message, for errors.
    """

    message: Message
    flags: MessageFlag
    family: NfProto
    body: bytes
    verb: str
    subject: object
    objects: int = 1
    locate: Callable[[int], Located | None] | None = None

    def __str__(self) -> str:
        return f"{self.verb} {self.subject}"

    def encode(self, sequence: int) -> bytes:
        """The netlink message with a sequence number, by which an error names it."""
        return _message(NFNL_SUBSYS_NFTABLES << 8 | self.message, self.flags, self.family, sequence, self.body)


class Transaction(msgspec.Struct, frozen=True):
    """Commands that take effect together."""

    commands: tuple[Command, ...]

    @classmethod
    def of(cls, *commands: Command) -> Transaction:
        return cls(commands)

    def __str__(self) -> str:
        return "\n".join(map(str, self.commands))

    def __bool__(self) -> bool:
        return bool(self.commands)

    @property
    def objects(self) -> int:
        """Kernel objects that it adds or deletes."""
        return sum(command.objects for command in self.commands)

    def encode(self) -> bytes:
        """The batch; command number n (from 1) has the sequence number n."""
        return b"".join(
            (
                _message(NFNL_MSG_BATCH_BEGIN, MessageFlag(0), 0, 0, b"", _RES_ID),
                *(command.encode(number) for number, command in enumerate(self.commands, 1)),
                _message(NFNL_MSG_BATCH_END, MessageFlag(0), 0, 0, b"", _RES_ID),
            )
        )


def one_by_one(commands: Iterable[Command]) -> Iterator[Transaction]:
    """A transaction for each command: as quick as one large one, and bounded in memory."""
    for command in commands:
        yield Transaction((command,))


def _message(kind: int, flags: MessageFlag, family: int, sequence: int, body: bytes, res_id: int = 0) -> bytes:
    length = HEADERS.size + len(body)
    return HEADERS.pack(length, kind, int(flags) | _REQUEST, sequence, 0, family, 0, res_id) + body
