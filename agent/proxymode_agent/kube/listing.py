"""A list of the API server, item by item while it comes: tens of megabytes take the server tenths of a second to write,
and what has come is read meanwhile. Pure.

An item's end is found by looking for what a built-in object begins with, behind a comma. That is a guess, and JSON's
grammar tells whether it was right: what has come is decoded up to there, and waits where it does not decode. Lists that
look otherwise are decoded when they are complete.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Generic, TypeVar

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable

I = TypeVar("I")  # noqa: E741 - an item

_ITEMS: Final = b'"items":['
_BETWEEN: Final = b'},{"metadata":{'
_BEGIN, _COMMA, _END = b"[,]"
_PIECE: Final = 1 << 17
"""Bytes that are worth a look; smaller lists are decoded whole."""


class ListMeta(msgspec.Struct, rename="camel"):
    """metav1.ListMeta, as far as it is read."""

    resource_version: str = ""
    continue_: str = msgspec.field(name="continue", default="")


class _List(msgspec.Struct):
    metadata: ListMeta
    items: msgspec.Raw = msgspec.Raw(b"[]")


class _Rest(msgspec.Struct):
    items: msgspec.Raw


_LIST: Final = msgspec.json.Decoder(_List)
_REST: Final = msgspec.json.Decoder(_Rest)
_RAW: Final = msgspec.json.Decoder(list[msgspec.Raw])


def raw_items(array: memoryview) -> list[msgspec.Raw]:
    """Of a JSON array, each by itself and undecoded. They refer to bytes of their own."""
    return _RAW.decode(bytes(array))


class ListDecoder(Generic[I]):
    """Feed it the body; it hands out each item once, in order, as `items` reads them: a JSON array, some of them, in a
    buffer that is another's after the call. That raises msgspec.DecodeError for what is no JSON array."""

    def __init__(self, items: Callable[[memoryview], list[I]]) -> None:
        self._items = items
        self._buffer = bytearray()
        self._meta: ListMeta | None = None
        self._look_at = _PIECE

    def feed(self, data: bytes | bytearray) -> list[I]:
        """The items that are complete with this piece of the body; mostly none, for a piece is too small."""
        self._buffer += data
        if len(self._buffer) < self._look_at:
            return []
        if self._meta is None and not self._begin():
            self._look_at = 2 * len(self._buffer)
            return []
        comma = self._buffer.rfind(_BETWEEN) + 1
        if comma:
            # What has come is many megabytes in all, and is decoded where it lies: between two brackets, the second in
            # the place of the comma, which then is the first of what follows.
            self._buffer[comma] = _END
            try:
                with memoryview(self._buffer) as whole, whole[: comma + 1] as array:
                    items = self._items(array)
            except msgspec.DecodeError:  # within an item
                self._buffer[comma] = _COMMA
            else:
                del self._buffer[:comma]
                self._buffer[0] = _BEGIN
                self._look_at = _PIECE
                return items
        self._look_at = 2 * len(self._buffer)
        return []

    def finish(self) -> tuple[list[I], ListMeta]:
        """The body is complete: the items that are left, and what is said of all. Raises msgspec.MsgspecError where it
        is no list."""
        if self._meta is None:
            whole = _LIST.decode(self._buffer)
            return self._all(whole.items), whole.metadata
        return self._all(_REST.decode(b"".join((b'{"items":', self._buffer))).items), self._meta

    def _all(self, array: msgspec.Raw) -> list[I]:
        """The items of a whole array; Go writes null for an empty one."""
        return [] if bytes(array) == b"null" else self._items(memoryview(array))

    def _begin(self) -> bool:
        """Read the list's metadata, where it comes before the items as it mostly does."""
        start = self._buffer.find(_ITEMS, 0, _PIECE)
        if start < 0:
            return False
        try:
            self._meta = _LIST.decode(b"".join((self._buffer[: start + len(_ITEMS)], b"]}"))).metadata
        except msgspec.MsgspecError:
            return False
        del self._buffer[: start + len(_ITEMS) - 1]
        return True
