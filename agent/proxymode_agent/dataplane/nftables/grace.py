"""Waiting until every packet that may have read an old element is through the hooks.

Packets pass the hooks inside RCU read-side sections, so a grace period of the kernel is what is to be waited for;
membarrier(2) with MEMBARRIER_CMD_GLOBAL ends after one.
"""

from __future__ import annotations

import errno
import os
import platform
import time

_SYS_MEMBARRIER = {"x86_64": 324, "aarch64": 283, "ppc64le": 365, "s390x": 356, "riscv64": 283}
_MEMBARRIER_CMD_GLOBAL = 1  # include/uapi/linux/membarrier.h
_WITHOUT_MEMBARRIER = 0.05  # seconds; a softirq's budget is 2 jiffies, 20 ms at the most


def wait() -> None:
    """Block for one grace period; where the kernel has no membarrier (nohz_full: EINVAL), for longer than a softirq."""
    import ctypes  # most starts have no use for it

    libc = ctypes.CDLL(None, use_errno=True)
    number = _SYS_MEMBARRIER.get(platform.machine())
    if number is not None and libc.syscall(number, _MEMBARRIER_CMD_GLOBAL, 0, 0) == 0:
        return
    error = ctypes.get_errno()
    if number is not None and error not in (errno.EINVAL, errno.ENOSYS, errno.EPERM):
        raise OSError(error, os.strerror(error), "membarrier")
    time.sleep(_WITHOUT_MEMBARRIER)
