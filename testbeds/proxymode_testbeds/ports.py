"""TCP ports for servers that cannot be told to let the kernel choose, or not say what it chose.

A port that was free a moment ago may be gone when the server comes to it: the kernel gives it to somebody else's
connection or server. So these come from below what kernels give away (net.ipv4.ip_local_port_range begins at 32768),
and processes of this machine that ask here never get the same one. Who listens there by custom can still be met.
"""

from __future__ import annotations

import errno
import random
import socket
from typing import Final

_FIRST: Final = 20000
_END: Final = 30000  # where NodePorts begin
_random: Final = random.SystemRandom()  # tests seed the other one alike in every process


def free_port(address: str = "127.0.0.1") -> int:
    """A TCP port of the address on which nobody listens, and which this process alone gets until it ends."""
    while True:
        port = _random.randrange(_FIRST, _END)
        # Abstract names (unix(7)) are like ports: of a network namespace, and free again when their holder dies.
        claim = socket.socket(socket.AF_UNIX)
        try:
            claim.bind(f"\0proxymode-port-{port}")
            with socket.create_server((address, port)):
                pass
        except OSError as error:
            claim.close()
            if error.errno != errno.EADDRINUSE:
                raise
        else:
            claim.detach()  # open until this process ends
            return port
