"""What a node does with open connections when it changes mode, as ProxyMode.spec.switch says it."""

from __future__ import annotations

from typing import Final

from pydantic import Field

from proxymode_api.common import ConnectionPolicy, Duration, Model

DRAIN_TIMEOUT: Final = "5m"
DRAIN_TIMEOUT_DESCRIPTION: Final = (
    "With policy Drain: how long connections that IPVS holds may go on; those that are left then end."
)


class SwitchOptions(Model):
    """What a node does with open connections when it changes mode."""

    connections: ConnectionPolicy = Field(
        default=ConnectionPolicy.HANDOVER,
        description="What happens to connections open on the old mode. Handover: they are carried over and go on. "
        "Drain: those that IPVS holds get until drainTimeout to end by themselves, and are cut then. Cut: they end at "
        "once. "
        "New ones move at once in any case; those that nftables translates go on in ipvs mode by themselves.",
    )
    drain_timeout: Duration = Field(default=DRAIN_TIMEOUT, description=DRAIN_TIMEOUT_DESCRIPTION)
