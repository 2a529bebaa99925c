"""I/O: the list of flows that are being carried over, on disk while they are. What an agent that was killed leaves.

Entries are written as the kernel dumped them, each after its length; so nothing is lost that a later agent may need.
A file that cannot be understood counts as none, with a warning: the temporary maps are still there.
"""

from __future__ import annotations

import logging
import os
import struct
from typing import TYPE_CHECKING, Final

from proxymode_agent.dataplane.conntrack.layout import BY_FAMILY

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_log = logging.getLogger(__name__)
_FORMAT: Final = b"proxymode flows 1\n"
_LENGTH: Final = struct.Struct("=I")
_BUFFER: Final = 1 << 18


class Notes:
    """One file. Raises OSError where it cannot be written."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def exist(self) -> bool:
        return self._file.exists()

    def read(self) -> dict[bytes, bytes]:
        """The messages by CTA_TUPLE_ORIG."""
        try:
            return dict(_parse(self._file.read_bytes()))
        except FileNotFoundError:
            return {}
        except (ValueError, KeyError, struct.error) as error:
            _log.warning("list of connections ignored", extra={"file": str(self._file), "reason": repr(error)})
            return {}

    def write(self, messages: Mapping[bytes, bytes]) -> None:
        """On disk when this returns."""
        self._file.parent.mkdir(parents=True, exist_ok=True)
        new = self._file.with_suffix(".new")
        with new.open("wb", buffering=_BUFFER) as file:
            file.write(_FORMAT)
            file.writelines(_LENGTH.pack(len(message)) + message for message in messages.values())
            file.flush()
            os.fsync(file.fileno())
        new.replace(self._file)

    def remove(self) -> None:
        self._file.unlink(missing_ok=True)


def _parse(content: bytes) -> list[tuple[bytes, bytes]]:
    if not content.startswith(_FORMAT):
        raise ValueError(f"the file does not begin with {_FORMAT!r}")
    found: list[tuple[bytes, bytes]] = []
    offset = len(_FORMAT)
    while offset < len(content):
        start = offset + _LENGTH.size
        offset = start + _LENGTH.unpack_from(content, start - _LENGTH.size)[0]
        message = content[start:offset]
        if len(message) != offset - start or not message:
            raise ValueError(f"an entry of {offset - start} bytes ends after {len(message)}")
        found.append((message[BY_FAMILY[message[0]].original], message))
    return found
