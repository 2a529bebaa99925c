"""Element changes as commands, kept together where they must be, cut into transactions where they may be. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from proxymode_agent.dataplane.nfnetlink import Command, Element, Transaction, add_elements, add_rows, delete_elements

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from proxymode_agent.dataplane.nfnetlink import Set

TRANSACTION_BYTES = 1 << 16  # memory that a transaction takes while somebody listens to events: about 10 MB for this
REPLACED_TOGETHER = 256  # elements whose delete and add go into one transaction

Unit = tuple[Command, ...]
"""Commands that must not be parted."""


class Work(NamedTuple):
    """Element changes: what is to be there before a verdict counts on it, and what goes when nobody can need it."""

    make: list[Unit]
    clear: list[Unit]


def pack(units: Iterable[Unit], limit: int = TRANSACTION_BYTES) -> Iterator[Transaction]:
    """Units into transactions, in order, as many in one as fit into `limit` bytes."""
    commands: list[Command] = []
    size = 0
    for unit in units:
        length = sum(len(command.body) for command in unit)
        if commands and size + length > limit:
            yield Transaction(tuple(commands))
            commands, size = [], 0
        commands += unit
        size += length
    if commands:
        yield Transaction(tuple(commands))


def added(to: Set, elements: Sequence[Element]) -> Iterator[Unit]:
    """New elements."""
    if not elements:
        return iter(())
    return ((command,) for command in add_elements(to, elements))


def added_rows(to: Set, rows: Sequence[tuple[bytes, Sequence[bytes]]], ends: Sequence[bytes]) -> Iterator[Unit]:
    """New elements, many to a row: see :func:`~proxymode_agent.dataplane.nfnetlink.add_rows`."""
    return ((command,) for command in add_rows(to, rows, ends))


def replaced(in_: Set, elements: Sequence[Element]) -> Iterator[Unit]:
    """Elements that exist, with other data: delete and add of a key are never parted."""
    for start in range(0, len(elements), REPLACED_TOGETHER):
        part = elements[start : start + REPLACED_TOGETHER]
        yield *delete_elements(in_, (key for key, _ in part)), *add_elements(in_, part)


def members(to: Set, keys: Sequence[bytes]) -> Iterator[Unit]:
    """New members of a set."""
    return added(to, [(key, b"") for key in keys])


def removed(of: Set, keys: Sequence[bytes]) -> Iterator[Unit]:
    """Elements that go."""
    if not keys:
        return iter(())
    return ((command,) for command in delete_elements(of, keys))
