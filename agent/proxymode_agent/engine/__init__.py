"""Keeps the kernel in agreement with Services: syncs, switches, retries, and tells where things stand."""

from proxymode_agent.engine.due import Pace as Pace
from proxymode_agent.engine.engine import Engine as Engine
from proxymode_agent.engine.snapshot import EnginePhase as EnginePhase
from proxymode_agent.engine.snapshot import EngineSnapshot as EngineSnapshot
