"""Where this process finds the kernel's settings, those of the network namespace it is in among them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

PROC_SYS: Final = Path(os.environ.get("PROXYMODE_PROC_SYS", "/proc/sys"))
"""A container's own /proc/sys is read-only and cannot be mounted over: the manifests mount the host's elsewhere."""
