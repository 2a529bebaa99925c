"""A few words of QMP, qemu's control language (docs/interop/qmp-spec.txt in qemu's sources).

Enough to ask for a port forward and to learn its number. Events are skipped, commands go one at a time.
"""

from __future__ import annotations

import asyncio
import json
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import socket


class MonitorError(Exception):
    """qemu refused a command, or went away."""


class Monitor:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._turn = asyncio.Lock()

    @classmethod
    async def connect(cls, connection: socket.socket) -> Monitor:
        """Takes the socket over and gets past the greeting."""
        monitor = cls(*await asyncio.open_unix_connection(sock=connection))
        await monitor.execute("qmp_capabilities")
        return monitor

    async def execute(self, command: str, **arguments: str) -> Any:
        async with self._turn:
            self._writer.write(json.dumps({"execute": command, "arguments": arguments}).encode() + b"\n")
            await self._writer.drain()
            while line := await self._reader.readline():
                message = json.loads(line)
                if "error" in message:
                    raise MonitorError(f"{command} {arguments}: {message['error']['desc']}")
                if "return" in message:
                    return message["return"]
            raise MonitorError(f"{command} {arguments}: qemu closed its monitor")

    async def forward(self, guest_address: str, guest_port: int) -> int:
        """Lets 127.0.0.1 on the host reach a TCP port of the guest; returns the host's port, chosen by the kernel."""
        refusal = await self._human(f"hostfwd_add net tcp:127.0.0.1:0-{guest_address}:{guest_port}")
        if refusal:
            raise MonitorError(f"forward to {guest_address}:{guest_port}: {refusal.strip()}")
        listing = await self._human("info usernet")
        port = host_port(listing, guest_address, guest_port)
        if port is None:
            raise MonitorError(f"forward to {guest_address}:{guest_port} is not in qemu's list:\n{listing}")
        return port

    async def _human(self, line: str) -> str:
        answer: str = await self.execute("human-monitor-command", **{"command-line": line})
        return answer

    def close(self) -> None:
        self._writer.close()


def host_port(listing: str, guest_address: str, guest_port: int) -> int | None:
    """The host's side of a forward in the text of `info usernet`."""
    guest = rf"{re.escape(guest_address)}\s+{guest_port}\b"
    found = re.search(rf"HOST_FORWARD\]\s+\d+\s+\S+\s+(\d+)\s+{guest}", listing)
    return int(found[1]) if found else None
