"""I/O: listens on the loopback addresses that are wanted, and connects who comes to an endpoint.

It exists because a packet from 127.0.0.1 cannot be sent to a pod: the kernel drops it as martian unless route_localnet
opens the node to its neighbours, and for ::1 there is no such switch. Made for a registry or a health check on the
node, not for throughput: bytes pass through the agent's one event loop, connections are bounded, and end with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import time
from typing import TYPE_CHECKING, Final

from proxymode_agent.backoff import Backoff
from proxymode_agent.localhost.plan import NodePorts, candidates, pinned
from proxymode_agent.localhost.relay import HALF_CLOSED_SECONDS, Stream, relay
from proxymode_agent.services.model import Family
from proxymode_api.modes import Mode

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from proxymode_agent.localhost.plan import Address, Pin, Target
    from proxymode_agent.metrics import Metrics
    from proxymode_agent.services.model import (
        DataplaneConfig,
        Endpoint,
        ServicePortName,
        ServiceState,
    )

logger = logging.getLogger(__name__)

CONNECTIONS: Final = 1000
"""At most so many at a time over all ports; more are closed as they come."""
DIAL_SECONDS: Final = 5.0
"""For each endpoint that is tried (upstream: dialTimeout)."""
_FAMILIES: Final = {Family.IPV4: socket.AF_INET, Family.IPV6: socket.AF_INET6}
_RETRY: Final = (0.5, 60.0)  # seconds, first and cap: a port that somebody else holds


class LocalhostNodePorts:
    """Hear of Services with `synced`, `run` in a task. `on_failure` is called with a Service port whose address cannot
    be listened on, and why, once as long as it stays the same."""

    def __init__(
        self,
        metrics: Metrics,
        *,
        on_failure: Callable[[ServicePortName, str], None] = lambda name, reason: None,
        connections: int = CONNECTIONS,
        half_closed_seconds: float = HALF_CLOSED_SECONDS,
    ) -> None:
        self._metrics = metrics
        self._on_failure = on_failure
        self._room = connections
        self._half_closed_seconds = half_closed_seconds
        self._ports: NodePorts | None = None  # None: nothing is to be listened on
        self._wanted: dict[Address, Target] = {}
        self._wake = asyncio.Event()
        self._listeners: dict[Address, asyncio.Server] = {}
        self._failures: dict[Address, str] = {}
        self._retry = Backoff(*_RETRY)
        self._pins: dict[Address, Pin] = {}
        self._connections: set[asyncio.Task[None]] = set()

    def synced(
        self, mode: Mode, config: DataplaneConfig, state: ServiceState, changed: Collection[ServicePortName] | None
    ) -> None:
        """The kernel does in this mode what `state` says; `changed` since the last call, None: anything may have."""
        if mode is not Mode.NFTABLES or not config.localhost_node_ports:
            self._ports, wanted = None, {}
        else:
            if self._ports is None:
                self._ports, changed = NodePorts(), None
            wanted = self._ports.update(state.ports, changed)
        if wanted != self._wanted:
            self._wanted = wanted
            self._wake.set()

    async def run(self) -> None:
        """Work for ever; ends by cancellation, and with it all connections."""
        try:
            while True:
                self._wake.clear()
                delay = await self._listen()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(delay):
                        await self._wake.wait()
        finally:
            for server in self._listeners.values():
                server.close()
            for connection in self._connections:
                connection.cancel()
            await asyncio.gather(*self._connections, return_exceptions=True)

    async def _listen(self) -> float | None:
        """Listen where it is wanted and nowhere else; after how many seconds to try again what failed."""
        for address in self._listeners.keys() - self._wanted.keys():
            self._listeners.pop(address).close()
            self._pins.pop(address, None)
        for address in self._failures.keys() - self._wanted.keys():
            del self._failures[address]
        for address in self._wanted.keys() - self._listeners.keys():
            try:
                self._listeners[address] = await self._open(address)
                self._failures.pop(address, None)
            except OSError as error:
                self._failed(address, os.strerror(error.errno) if error.errno else str(error))
        self._metrics.localhost_listeners.set(len(self._listeners))
        if not self._failures:
            self._retry.reset()
            return None
        return self._retry.next()

    async def _open(self, address: Address) -> asyncio.Server:
        def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            client = Stream(reader, writer)
            task = asyncio.get_running_loop().create_task(self._serve(address, client))
            self._connections.add(task)
            task.add_done_callback(self._connections.discard)

        family = _FAMILIES[address.family]
        return await asyncio.start_server(accepted, address.host, address.port, family=family)

    def _failed(self, address: Address, reason: str) -> None:
        if self._failures.get(address) == reason or address not in self._wanted:
            return
        self._failures[address] = reason
        name = self._wanted[address].name
        logger.warning("cannot listen", extra={"address": str(address), "service": str(name), "error": reason})
        self._on_failure(name, f"cannot listen on {address}: {reason}")

    async def _serve(self, address: Address, client: Stream) -> None:
        """One connection, from its acceptance to its end."""
        result = "refused"
        try:
            if self._room > 0:
                self._room -= 1
                try:
                    endpoint = await self._dial(address)
                    result = "accepted" if endpoint else "failed"
                    self._metrics.localhost_connections.labels(result).inc()
                    if endpoint is not None:
                        await relay(client, endpoint, self._half_closed_seconds)
                finally:
                    self._room += 1
            else:
                self._metrics.localhost_connections.labels(result).inc()
        finally:
            client.writer.transport.abort()

    async def _dial(self, address: Address) -> Stream | None:
        """A connection to an endpoint; None where none answers, or the port is wanted no more."""
        target = self._wanted.get(address)
        if target is None:
            return None
        import random  # takes a while, and few nodes listen on loopback

        for endpoint in candidates(target, self._pins.get(address), time.monotonic(), random.Random()):
            stream = await _connect(endpoint)
            if stream is None:
                continue
            pin = pinned(target, endpoint, time.monotonic())
            if pin is not None:
                self._pins[address] = pin
            return stream
        return None


async def _connect(endpoint: Endpoint) -> Stream | None:
    host = socket.inet_ntop(_FAMILIES[Family(len(endpoint.address))], endpoint.address)
    try:
        async with asyncio.timeout(DIAL_SECONDS):
            reader, writer = await asyncio.open_connection(host, endpoint.port)
    except OSError:  # TimeoutError is one
        return None
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    return Stream(reader, writer)
