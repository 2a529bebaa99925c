"""The agent's version. A constant: to ask importlib.metadata for it costs as much as asyncio does."""

from __future__ import annotations

from typing import Final

VERSION: Final = "0.1.0"
"""That of the distribution, in pyproject.toml."""

PRODUCT: Final = "proxymode-agent"
"""What the agent calls itself where it answers as kube-proxy does, so that it is not taken for one."""
