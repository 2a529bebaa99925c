"""Judgements about the kernel: what it is made of, and how full its tables are. Pure; `checks` has the table."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from proxymode_agent.preflight.model import Facts, Finding, ModuleState
from proxymode_api.modes import Mode
from proxymode_api.nodeproxymode import Verdict

if TYPE_CHECKING:
    from collections.abc import Mapping

    from proxymode_agent.services.model import DataplaneConfig

MINIMUM_KERNEL_NFTABLES = (5, 13)
"""KEP-3866: kube-proxy's nftables mode asks for 5.13 as well."""

REUSE_FIXED_KERNEL = (5, 9)
"""From this kernel on IPVS reuses a client port without a one second delay (kubernetes/kubernetes#93297)."""

CONNTRACK_WARN, CONNTRACK_BLOCK = 0.80, 0.95
"""Share of nf_conntrack_max in use; clients of cut connections come back at once and need entries of their own."""

NFT_EXPRESSIONS: Mapping[Mode, frozenset[str]] = {
    Mode.NFTABLES: frozenset(
        [
            "bitwise",
            "cmp",
            "ct",
            "dynset",
            "fib",
            "immediate",
            "lookup",
            "masq",
            "meta",
            "nat",
            "numgen",
            "payload",
            "reject",
        ]
    ),
    Mode.IPVS: frozenset({"bitwise", "cmp", "ct", "fib", "immediate", "lookup", "masq", "meta", "payload", "reject"}),
}
"""Expressions of nf_tables that a mode's tables are made of."""


def kernel_release(text: str) -> tuple[int, int]:
    """`6.1.0-41-amd64` to (6, 1). Raises ValueError when it does not begin with two numbers."""
    match = re.match(r"(\d+)\.(\d+)", text)
    if match is None:
        raise ValueError(f"{text!r} is not a kernel release: it should begin like 6.1")
    return int(match[1]), int(match[2])


def kernel_version(mode: Mode, facts: Facts, _config: DataplaneConfig) -> Finding:
    try:
        kernel = kernel_release(facts.kernel)
    except ValueError as error:
        return Finding(Verdict.WARN, str(error), "Compare the kernel's version with the documentation by hand.")
    if mode is Mode.NFTABLES and kernel < MINIMUM_KERNEL_NFTABLES:
        return Finding(
            Verdict.BLOCK,
            f"Linux {facts.kernel}; nftables mode needs 5.13 or newer",
            "Upgrade the node's kernel to 5.13 or newer, better 6.1.",
        )
    if mode is Mode.IPVS and kernel < REUSE_FIXED_KERNEL:
        return Finding(
            Verdict.WARN,
            f"Linux {facts.kernel}; before 5.9 a client that reuses a port can reach an endpoint that is gone",
            "Upgrade the node's kernel to 5.9 or newer.",
        )
    return Finding(Verdict.PASS, f"Linux {facts.kernel}")


def nft_expressions(mode: Mode, facts: Facts, _config: DataplaneConfig) -> Finding:
    if facts.nft.error:
        return Finding(
            Verdict.BLOCK,
            f"nf_tables cannot be used: {facts.nft.error}",
            "Load nf_tables (modprobe nf_tables; CONFIG_NF_TABLES) and give the agent CAP_NET_ADMIN.",
        )
    needed = NFT_EXPRESSIONS[mode]
    missing = sorted(needed & facts.nft.missing)
    if missing:
        return Finding(
            Verdict.BLOCK,
            f"the kernel refuses {', '.join(missing)}",
            f"Install or load {', '.join(f'nft_{name}' for name in missing)} (see linux-modules-extra).",
        )
    return Finding(Verdict.PASS, f"all {len(needed)} expressions accepted")


def _module(facts: Facts, name: str, needed_for: str) -> Finding:
    match facts.modules.get(name, ModuleState.UNKNOWN):
        case ModuleState.MISSING:
            return Finding(
                Verdict.BLOCK,
                f"the kernel has no {name}; {needed_for}",
                f"Install the kernel's module package that contains {name}, or use a kernel built with it.",
            )
        case ModuleState.UNKNOWN:
            return Finding(
                Verdict.WARN,
                f"cannot tell whether the kernel has {name}: /lib/modules and /proc/config.gz are not readable",
                f"Run modprobe {name} on the node, or mount /lib/modules into the agent.",
            )
        case state:
            return Finding(Verdict.PASS, f"{name} is {state}")


def ip_vs_module(_mode: Mode, facts: Facts, _config: DataplaneConfig) -> Finding:
    if facts.ipvs_reachable:
        return Finding(Verdict.PASS, "ip_vs answers over netlink")
    return _module(facts, "ip_vs", "ipvs mode is made of it")


def ip_vs_scheduler(_mode: Mode, facts: Facts, config: DataplaneConfig) -> Finding:
    asked = config.ipvs_scheduler
    found = _module(facts, f"ip_vs_{asked}", f"the scheduler {asked} was asked for")
    if found.verdict is not Verdict.BLOCK or asked == "rr":
        return found
    return Finding(Verdict.WARN, f"{found.found}; virtual servers get rr in its place", found.remedy)


def dummy_device(_mode: Mode, facts: Facts, _config: DataplaneConfig) -> Finding:
    if "kube-ipvs0" in facts.interfaces:
        return Finding(Verdict.PASS, "kube-ipvs0 is there")
    return _module(facts, "dummy", "kube-ipvs0, which holds the Service addresses, is a dummy device")


def conntrack_netlink(_mode: Mode, facts: Facts, _config: DataplaneConfig) -> Finding:
    return _module(facts, "nf_conntrack_netlink", "by it connections are counted, handed over, and cleared")


def conntrack_headroom(_mode: Mode, facts: Facts, _config: DataplaneConfig) -> Finding:
    maximum = facts.sysctls.get("net.netfilter.nf_conntrack_max")
    if facts.conntrack_count is None or maximum is None:
        return Finding(
            Verdict.WARN,
            "nf_conntrack's count and maximum cannot be read",
            "Load nf_conntrack; the dataplane loads it by itself otherwise.",
        )
    if maximum == 0:
        return Finding(Verdict.PASS, f"{facts.conntrack_count} entries, no limit")
    share = facts.conntrack_count / maximum
    found = f"{facts.conntrack_count} of {maximum} entries ({share:.0%})"
    remedy = f"Raise net.netfilter.nf_conntrack_max, for instance to {2 * maximum}."
    if share >= CONNTRACK_BLOCK:
        return Finding(Verdict.BLOCK, f"{found}: a switch would find the table full", remedy)
    if share >= CONNTRACK_WARN:
        return Finding(Verdict.WARN, found, remedy)
    return Finding(Verdict.PASS, found)


def ip_forward(_mode: Mode, facts: Facts, _config: DataplaneConfig) -> Finding:
    off = [name for name in ("net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding") if facts.sysctls.get(name) == 0]
    if "net.ipv4.ip_forward" in off:
        return Finding(
            Verdict.WARN,
            "net.ipv4.ip_forward is 0: packets to endpoints on other nodes are dropped",
            "Set net.ipv4.ip_forward=1 (a CNI plugin usually does).",
        )
    if off:
        return Finding(Verdict.PASS, "IPv4 is forwarded, IPv6 is not (dual-stack clusters need it)")
    return Finding(Verdict.PASS, "forwarding is on")
