"""I/O: files that another run reads, each written whole or not at all, also when the machine dies meanwhile."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

_BUFFER: Final = 1 << 18


def replace(file: Path, content: Iterable[bytes]) -> None:
    """Put the content, piece by piece, in the place of what is there; folders are made. Raises OSError.

    The content is on disk when this returns; that it is now called so may still be lost with the machine.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    new = file.with_suffix(".new")
    with new.open("wb", buffering=_BUFFER) as opened:
        opened.writelines(content)
        opened.flush()
        os.fsync(opened.fileno())
    new.replace(file)
