"""NodePorts on 127.0.0.1 and [::1], where the kernel cannot translate destinations: a small TCP proxy (KEP-6032)."""

from proxymode_agent.localhost.server import LocalhostNodePorts as LocalhostNodePorts
