"""Chains of iptables as kube-proxy keeps them, in what its modes iptables and ipvs have in common. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def table(program: str, table: str, chains: Sequence[str], jumps: Sequence[str], rules: Sequence[str] = ()) -> str:
    """One iptables-restore --noflush: chains that `rules` fill are emptied first, jumps that are there are not added
    again (utiliptables.EnsureChain and EnsureRule come to the same)."""
    filled = dict.fromkeys(rule.split()[1] for rule in rules)
    declared = [f":{chain} - [0:0]" for chain in dict.fromkeys([*chains, *filled])]
    lines = "\n".join([f"*{table}", *declared, *rules])
    wanted = "\n".join(jumps)
    return (
        f"have=$({program}-save -t {table})\n"
        f"{{ cat <<'RULES'\n{lines}\nRULES\n"
        f'while read -r jump; do case $have in *"$jump"*) ;; *) echo "-I ${{jump#-A }}" ;; esac; done <<\'JUMPS\'\n'
        f"{wanted}\nJUMPS\necho COMMIT; }} | {program}-restore -w --noflush"
    )


def jump(chain: str, to: str, match: str = "") -> str:
    """As iptables-save prints it."""
    return f"-A {chain} {match}-m comment --comment kubernetes -j {to}"


MASQUERADE = (
    "-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN",
    "-A KUBE-POSTROUTING -j MARK --xor-mark 0x4000",
    "-A KUBE-POSTROUTING -j MASQUERADE --random-fully",
    "-A KUBE-MARK-MASQ -j MARK --or-mark 0x4000",
)
FORWARD = (
    "-A KUBE-FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT",
    "-A KUBE-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
)
NEW = "-m conntrack --ctstate NEW "
