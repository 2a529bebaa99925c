"""A fixed piece of Python, to tell by how much an emulated machine slows Python down: nothing of it is I/O."""

from __future__ import annotations

import time
from typing import Final

from proxymode_agent.dataplane.ipvs.messages import body
from proxymode_agent.dataplane.ipvs.model import AddRealServer
from proxymode_agent.services.model import Endpoint, Frontend, Protocol

_MESSAGES: Final = 20_000
_TIMES: Final = 3


def seconds() -> float:
    """CPU seconds to name and pack 20,000 real servers, and to put them into a dictionary; the least of three."""
    return min(_once() for _ in range(_TIMES))


def _once() -> float:
    began = time.process_time()
    made: dict[Endpoint, bytes] = {}
    for number in range(_MESSAGES):
        frontend = Frontend((number // 10).to_bytes(4, "big"), Protocol.TCP, 80)
        endpoint = Endpoint(number.to_bytes(4, "big"), 8080)
        made[endpoint] = body(AddRealServer(frontend, endpoint))
    return time.process_time() - began
