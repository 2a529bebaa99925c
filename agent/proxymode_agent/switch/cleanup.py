"""Removes all that a mode or a switch ever makes, also what one leaves that was killed, for good.

Deliberately keeps no connection alive and no Service answered: it is for nodes that somebody else takes care of.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Protocol

from proxymode_agent.dataplane.base import DataplaneError
from proxymode_api.modes import Mode

if TYPE_CHECKING:
    from collections.abc import Callable

    from proxymode_agent.dataplane.base import Dataplane
    from proxymode_agent.switch.journal import Journal


class Removals(Protocol):
    """What a clean-up asks of the kernel; see switch.kernel.Kernel."""

    def dataplane(self, mode: Mode) -> Dataplane: ...
    def end_handover(self) -> None: ...


def clean_up(kernel: Removals, journal: Journal) -> dict[str, str]:
    """Remove what is there, one thing after another; what could not be removed, and why."""

    def remove(mode: Mode) -> None:
        kernel.dataplane(mode).remove()

    removals: dict[str, Callable[[], None]] = {
        **{mode.value: partial(remove, mode) for mode in Mode},
        "hand-over": kernel.end_handover,
        "journal": journal.clear,
    }
    failed: dict[str, str] = {}
    for what, remove_it in removals.items():
        try:
            remove_it()
        except (DataplaneError, OSError) as error:
            failed[what] = str(error)
    return failed
