"""Moving a node from one mode to the other while traffic flows, one named step after another.

The target is programmed beside the old mode and read back before anything of the old mode is touched. Each step is
idempotent, so that a switch that was killed is finished by switching again.
"""

from proxymode_agent.switch.record import (
    Connections,
    Outcome,
    Probes,
    StepRecord,
    SwitchError,
    SwitchPending,
    SwitchRecord,
)
from proxymode_agent.switch.switcher import Switcher

__all__ = [
    "Connections",
    "Outcome",
    "Probes",
    "StepRecord",
    "SwitchError",
    "SwitchPending",
    "SwitchRecord",
    "Switcher",
]
