"""What a kube-proxy has in the kernel of its node, and how it goes when this agent has taken its place.

`names` says what is kube-proxy's and what only looks like it, `remains` finds and removes it, from `chains` (iptables
in its nf_tables variant, and kube-proxy's own nf_tables tables), `legacy` (iptables-legacy) and `ipsets`. Its virtual
servers and kube-ipvs0 are not removed but adopted: see proxymode_agent.switch.
"""

from proxymode_agent.takeover.found import Found
from proxymode_agent.takeover.remains import Remains

__all__ = ["Found", "Remains"]
