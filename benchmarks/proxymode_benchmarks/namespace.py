"""A network namespace of a benchmark's own."""

from __future__ import annotations

import ctypes
import os
from typing import Final

_CLONE_NEWNET: Final = 0x40000000  # linux/sched.h


def enter_new() -> None:
    """Move this process, which must have no second thread yet, into a new one, which ends with it. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNET) != 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error), "unshare(CLONE_NEWNET); root is needed")
