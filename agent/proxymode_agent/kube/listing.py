"""A list of the API server, item by item while it comes: tens of megabytes take the server tenths of a second to write,
and what has come is read meanwhile. Pure.

An item's end is found by looking for what a built-in object begins with, behind a comma. That is a guess, and JSON's
grammar tells whether it was right: what has come is decoded up to there, and waits where it does not decode. Lists that
look otherwise are decoded when they are complete.
"""

from __future__ import annotations

from typing import Final

import msgspec

_ITEMS: Final = b'"items":['
_BETWEEN: Final = b'},{"metadata":{'
_PIECE: Final = 1 << 17
"""Bytes that are worth a look; smaller lists are decoded whole."""


class ListMeta(msgspec.Struct, rename="camel"):
    """metav1.ListMeta, as far as it is read."""

    resource_version: str = ""
    continue_: str = msgspec.field(name="continue", default="")


class _List(msgspec.Struct):
    metadata: ListMeta
    items: list[msgspec.Raw] | None = None


class _Rest(msgspec.Struct):
    items: list[msgspec.Raw] | None = None


_LIST: Final = msgspec.json.Decoder(_List)
_REST: Final = msgspec.json.Decoder(_Rest)
_ARRAY: Final = msgspec.json.Decoder(list[msgspec.Raw])


class ListDecoder:
    """Feed it the body; it hands out each item once, in order."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._meta: ListMeta | None = None
        self._look_at = _PIECE

    def feed(self, data: bytes | bytearray) -> list[msgspec.Raw]:
        """The items that are complete with this piece of the body; mostly none, for a piece is too small."""
        self._buffer += data
        if len(self._buffer) < self._look_at:
            return []
        if self._meta is None and not self._begin():
            self._look_at = 2 * len(self._buffer)
            return []
        end = self._buffer.rfind(_BETWEEN)
        if end >= 0:
            try:
                items = _ARRAY.decode(b"[%b]" % bytes(self._buffer[: end + 1]))
            except msgspec.MsgspecError:
                pass  # within an item
            else:
                del self._buffer[: end + 2]
                self._look_at = _PIECE
                return items
        self._look_at = 2 * len(self._buffer)
        return []

    def finish(self) -> tuple[list[msgspec.Raw], ListMeta]:
        """The body is complete: the items that are left, and what is said of all. Raises msgspec.MsgspecError where it
        is no list."""
        if self._meta is None:
            whole = _LIST.decode(self._buffer)
            return whole.items or [], whole.metadata
        return _REST.decode(b"{%b%b" % (_ITEMS, bytes(self._buffer))).items or [], self._meta

    def _begin(self) -> bool:
        """Read the list's metadata, where it comes before the items as it mostly does."""
        start = self._buffer.find(_ITEMS, 0, _PIECE)
        if start < 0:
            return False
        try:
            self._meta = _LIST.decode(b"%b]}" % bytes(self._buffer[: start + len(_ITEMS)])).metadata
        except msgspec.MsgspecError:
            return False
        del self._buffer[: start + len(_ITEMS)]
        return True
