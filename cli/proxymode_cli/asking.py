"""What is asked for, apart from asking: paths, labels, and which ProxyMode is meant. Quick to import."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from proxymode_api import API_VERSION
from proxymode_cli.errors import ExitCode, UserError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

PROXY_MODES: Final = f"/apis/{API_VERSION}/proxymodes"
NODE_PROXY_MODES: Final = f"/apis/{API_VERSION}/nodeproxymodes"
NODES: Final = "/api/v1/nodes"
OS_LABEL: Final = "kubernetes.io/os"


def choose(name: str | None, names: Iterable[str]) -> str:
    """The ProxyMode that is meant. Raises UserError when there is none of this name, or no name and not just one."""
    known = sorted(names)
    if name is not None and name in known:
        return name
    if name is not None:
        there = f"there is {', '.join(known)}" if known else "there is none at all"
        raise UserError(f"ProxyMode {name!r} not found; {there}", ExitCode.NOT_FOUND)
    if len(known) == 1:
        return known[0]
    if not known:
        raise UserError(
            "this cluster has no ProxyMode; kubectl apply one first (kubectl proxymode status and migration need none)",
            ExitCode.NOT_FOUND,
        )
    raise UserError(f"which ProxyMode? name one of {', '.join(known)}", ExitCode.USAGE)


def labels(item: Mapping[str, Any]) -> Mapping[str, str]:
    """metadata.labels."""
    return (item.get("metadata") or {}).get("labels") or {}
