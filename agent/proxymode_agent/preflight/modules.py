"""Which kernel modules a node has, without loading any.

Loaded ones from /proc/modules; the others from the lists that depmod wrote for this kernel, or, where /lib/modules is
not mounted, from the kernel's own configuration. The kernel loads modules by itself (request_module runs in the host's
mount namespace), so a module need not be visible in a container to be usable.
"""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import TYPE_CHECKING, Final

from proxymode_agent.preflight.model import ModuleState

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

SCHEDULERS: Final = ("dh", "fo", "lblc", "lblcr", "lc", "mh", "nq", "ovf", "rr", "sed", "sh", "wlc", "wrr")
CONFIG_SYMBOLS: Final[Mapping[str, str]] = {
    "dummy": "CONFIG_DUMMY",
    "ip_vs": "CONFIG_IP_VS",
    "nf_conntrack": "CONFIG_NF_CONNTRACK",
    "nf_conntrack_netlink": "CONFIG_NF_CT_NETLINK",
    "nf_nat": "CONFIG_NF_NAT",
    "nf_tables": "CONFIG_NF_TABLES",
    **{f"ip_vs_{name}": f"CONFIG_IP_VS_{name.upper()}" for name in SCHEDULERS},
}
"""The modules that matter here, and the symbol that each is configured by (net/netfilter/ipvs/Kconfig and others)."""

_STATES: Final = {"y": ModuleState.BUILTIN, "m": ModuleState.LOADABLE}


def module_states(root: Path, release: str) -> dict[str, ModuleState]:
    """The state of every module in CONFIG_SYMBOLS for the kernel `release`, under a file system root."""
    loaded = {line.split(" ", 1)[0] for line in _lines(root / "proc/modules")}
    folder = root / "lib/modules" / release
    builtin = _module_names(_lines(folder / "modules.builtin"))
    loadable = _module_names(line.partition(":")[0] for line in _lines(folder / "modules.dep"))
    config = {} if builtin or loadable else _configuration(root, release)

    def state(name: str, symbol: str) -> ModuleState:
        if name in loaded:
            return ModuleState.LOADED
        if name in builtin:
            return ModuleState.BUILTIN
        if name in loadable:
            return ModuleState.LOADABLE
        if config:
            return _STATES.get(config.get(symbol, "n"), ModuleState.MISSING)
        return ModuleState.MISSING if builtin or loadable else ModuleState.UNKNOWN

    return {name: state(name, symbol) for name, symbol in CONFIG_SYMBOLS.items()}


def _module_names(paths: Iterable[str]) -> set[str]:
    """`kernel/net/netfilter/ipvs/ip_vs.ko.xz` to `ip_vs`; the kernel takes - and _ for the same."""
    return {Path(path).name.partition(".ko")[0].replace("-", "_") for path in paths if path}


def _configuration(root: Path, release: str) -> dict[str, str]:
    text = ""
    try:
        text = gzip.decompress((root / "proc/config.gz").read_bytes()).decode()
    except OSError:
        text = "\n".join(_lines(root / f"boot/config-{release}"))
    pairs = (line.partition("=") for line in text.splitlines() if line.startswith("CONFIG_"))
    return {symbol: value for symbol, _, value in pairs}


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
