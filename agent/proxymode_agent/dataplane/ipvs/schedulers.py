"""Which IPVS schedulers are asked for, and what serves in the place of those that the kernel does not have."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from proxymode_agent.services.model import ServicePort

FALLBACK: Final = "rr"
"""Every kernel with IPVS has it."""


class Schedulers:
    """`usual`: of Services that ask for none."""

    def __init__(self, usual: str) -> None:
        self._usual = usual
        self._there: dict[str, bool] = {FALLBACK: True}

    def asked(self, ports: Iterable[ServicePort]) -> set[str]:
        """The schedulers that these Service ports ask for."""
        return {port.ipvs_scheduler or self._usual for port in ports}

    def known(self, names: Iterable[str]) -> bool:
        """Whether the kernel was asked for all of them before."""
        return all(name in self._there for name in names)

    def replacements(self, names: Iterable[str], has: Callable[[str], bool]) -> Mapping[str, str]:
        """For schedulers that the kernel lacks the one in their place; `has` asks it. A module may have been installed
        or loaded meanwhile, so those that were not there are asked for again."""
        for name in names:
            if not self._there.get(name):
                self._there[name] = has(name)
        return {name: FALLBACK for name, there in self._there.items() if not there}
