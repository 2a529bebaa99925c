"""I/O: the list of flows that are being carried over, on disk while they are. What an agent that was killed leaves.

Of each flow the reply and the two requests, as they are sent to the kernel; each begins with its own length. A file
that cannot be understood counts as none, with a warning: the temporary maps are still there.
"""

from __future__ import annotations

import logging
import struct
from itertools import chain
from typing import TYPE_CHECKING, Final

from proxymode_agent import whole_file
from proxymode_agent.dataplane.conntrack.layout import NFGENMSG
from proxymode_agent.dataplane.netlink import HEADER_BYTES

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

logger = logging.getLogger(__name__)
_FORMAT: Final = b"proxymode flows 1\n"
_TUPLE, _REQUEST = struct.Struct("=H"), struct.Struct("=I")  # nla_len, nlmsg_len
_ORIGINAL: Final = HEADER_BYTES + NFGENMSG  # where a request has CTA_TUPLE_ORIG


class Notes:
    """One file. Raises OSError where it cannot be written."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def exist(self) -> bool:
        return self._file.exists()

    def read(self) -> dict[bytes, bytes]:
        """By CTA_TUPLE_ORIG."""
        try:
            return _parse(self._file.read_bytes())
        except FileNotFoundError:
            return {}
        except (ValueError, struct.error) as error:
            logger.warning("list of connections ignored", extra={"file": str(self._file), "reason": repr(error)})
            return {}

    def write(self, moves: Mapping[bytes, bytes]) -> None:
        """On disk when this returns."""
        whole_file.replace(self._file, chain([_FORMAT], moves.values()))

    def remove(self) -> None:
        self._file.unlink(missing_ok=True)


def _parse(content: bytes) -> dict[bytes, bytes]:
    if not content.startswith(_FORMAT):
        raise ValueError(f"the file does not begin with {_FORMAT!r}")
    found: dict[bytes, bytes] = {}
    offset = len(_FORMAT)
    while offset < len(content):
        start = offset
        for length in (_TUPLE, _REQUEST, _REQUEST):
            (size,) = length.unpack_from(content, offset)
            offset += size
            if size < _ORIGINAL or offset > len(content):
                raise ValueError(f"the entry at byte {start} ends at byte {offset} of {len(content)}")
        (size,) = _TUPLE.unpack_from(content, start)
        found[content[start + size + _ORIGINAL : start + 2 * size + _ORIGINAL]] = content[start:offset]
    return found
