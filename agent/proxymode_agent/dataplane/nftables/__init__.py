"""Mode nftables: Services as elements of nf_tables maps. README.md here draws the packet's path.

`layout` declares the tables, `wants` says what a frontend shall do, `frontends` who answers on which address, `plan`
orders the updates (all pure); `readback` and `dataplane` talk to the kernel.
"""

from proxymode_agent.dataplane.nftables.dataplane import NftablesDataplane, present
from proxymode_agent.dataplane.nftables.layout import TABLE

__all__ = ["TABLE", "NftablesDataplane", "present"]
