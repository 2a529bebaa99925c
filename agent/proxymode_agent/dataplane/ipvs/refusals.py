"""Pure: what a sync has to tell of Service ports that are not served as they ask to be."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from proxymode_agent.dataplane.base import DataplaneError
from proxymode_agent.dataplane.ipvs.model import BindAddress, ReleaseAddress, shown

if TYPE_CHECKING:
    from collections.abc import Iterable

    from proxymode_agent.dataplane.base import Refused
    from proxymode_agent.dataplane.ipvs.model import AddressChange, ServerChange
    from proxymode_agent.dataplane.ipvs.wanted import Wanted
    from proxymode_agent.services.model import ServicePortName

_NAMED: Final = 5
"""So many Service ports are named in a text."""


def conflicts(wanted: Wanted) -> Refused:
    """Ports that lack a frontend because another port has it."""
    return tuple(
        (name, f"{shown(frontend)} belongs to Service port {owner}") for name, owner, frontend in wanted.conflicts()
    )


def instead(wanted: Wanted) -> str:
    """Which ports get another scheduler than they ask for; empty: none."""
    texts = []
    for scheduler, names in wanted.replaced_schedulers().items():
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        ports = ", ".join(map(str, names[:_NAMED]))
        texts.append(
            f"the kernel has no IPVS scheduler {scheduler} (module ip_vs_{scheduler}): rr serves {ports}{more}"
        )
    return "; ".join(texts)


def by_port(wanted: Wanted, refused: Iterable[tuple[ServerChange | AddressChange, str]]) -> dict[ServicePortName, str]:
    """Which ports lack what the kernel refused, each with the first reason: others follow from it. Raises
    DataplaneError for what belongs to no port."""
    found: dict[ServicePortName, str] = {}
    for change, reason in refused:
        if isinstance(change, BindAddress | ReleaseAddress):
            names = wanted.owners_of(change.address)
        else:
            owner = wanted.owner(change.frontend)
            names = [] if owner is None else [owner]
        if not names:
            raise DataplaneError(f"cannot {change}: {reason}")
        for name in names:
            found.setdefault(name, f"cannot {change}: {reason}")
    return found
