"""What a node does with open connections when it changes mode, as ProxyMode.spec.switch says it."""

from __future__ import annotations

from pydantic import Field

from proxymode_api.common import ConnectionPolicy, Model


class SwitchOptions(Model):
    """What a node does with open connections when it changes mode."""

    connections: ConnectionPolicy = Field(
        default=ConnectionPolicy.HANDOVER,
        description="What happens to connections open on the old mode. Handover: they are carried over and go on; Cut: "
        "those that IPVS holds end. New ones move at once either way.",
    )
