"""The guest's daemon: takes a connection from the host, runs its command, reports the exit, forgets it.

Usage: `python -m proxymode_testbeds.vm_guest PORT < secret-file`. One thread per connection, because a network
namespace belongs to a thread: the thread enters it and then starts the command, which inherits it. It does not
mount that namespace's own /sys, as `ip netns exec` would; /proc/net and /proc/sys/net follow by themselves.
"""

from __future__ import annotations

import contextlib
import hmac
import os
import selectors
import signal
import socket
import subprocess
import sys
import threading
from typing import IO

from proxymode_testbeds import netns
from proxymode_testbeds.vm_guest.frames import Channel, Request, frame, take

REQUEST_LIMIT = 1 << 20  # bytes; longer than any command line the kernel would take
READ_SIZE = 1 << 16


def main() -> None:
    # The shell that started this in the background had these two ignored, and commands would inherit that.
    for number in (signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)
    secret = sys.stdin.readline().strip()
    with socket.create_server(("10.0.2.15", int(sys.argv[1])), backlog=128) as listener:
        # The host waits for this line on the console.
        print("proxymode-vm: ready", flush=True)
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=_serve, args=(connection, secret), daemon=True).start()


def _serve(connection: socket.socket, secret: str) -> None:
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with connection, contextlib.suppress(ConnectionError):
        line, rest = _request_line(connection)
        if line is None:
            return
        request = Request.decode(line)
        if not hmac.compare_digest(request.secret, secret):
            connection.sendall(frame(Channel.REFUSED, b"wrong secret"))
            return
        try:
            if request.netns is not None:
                netns.enter(request.netns)
            process = subprocess.Popen(
                request.argv,
                cwd=request.cwd,
                env=request.env,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,
                start_new_session=True,
            )
        except OSError as error:
            connection.sendall(frame(Channel.REFUSED, str(error).encode()))
            return
        _Command(connection, process, rest).run()


def _request_line(connection: socket.socket) -> tuple[bytes | None, bytearray]:
    """The first line and what was read behind it; None where the peer left or sent no line at all."""
    buffer = bytearray()
    while b"\n" not in buffer:
        chunk = connection.recv(READ_SIZE)
        if not chunk or len(buffer) > REQUEST_LIMIT:
            return None, buffer
        buffer += chunk
    line, _, rest = buffer.partition(b"\n")
    return bytes(line), rest


class _Command:
    """Moves bytes between one connection and one process until either ends."""

    def __init__(self, connection: socket.socket, process: subprocess.Popen[bytes], received: bytearray) -> None:
        self._connection = connection
        self._process = process
        self._received = received  # from the host, not yet a whole frame
        self._stdin = bytearray()  # for the command, not yet taken by it
        self._stdin_ends = False
        self._selector = selectors.DefaultSelector()

    def run(self) -> None:
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        exited = os.pidfd_open(process.pid)
        os.set_blocking(process.stdin.fileno(), False)
        watched: list[tuple[int | socket.socket | IO[bytes], Channel]] = [
            (self._connection, Channel.SIGNAL),
            (process.stdout, Channel.STDOUT),
            (process.stderr, Channel.STDERR),
            (exited, Channel.EXIT),
        ]
        try:
            for source, channel in watched:
                self._selector.register(source, selectors.EVENT_READ, channel)
            self._connection.sendall(frame(Channel.STARTED))
            self._obey()
            self._relay()
            code = process.wait()
            self._drain()
            self._connection.sendall(frame(Channel.EXIT, b"%d" % code))
        except OSError:
            # The host is gone, or wants this command gone: nobody is left to tell.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        finally:
            os.close(exited)
            self._selector.close()
            for pipe in (process.stdin, process.stdout, process.stderr):
                # A closed pipe with unwritten input complains; that input has no reader any more.
                with contextlib.suppress(OSError):
                    pipe.close()

    def _relay(self) -> None:
        """Until the process ends; ConnectionError when the host ends first."""
        while True:
            for key, _ in self._selector.select():
                if key.data is Channel.EXIT:
                    return
                if key.data is Channel.SIGNAL:
                    chunk = self._connection.recv(READ_SIZE)
                    if not chunk:
                        raise ConnectionResetError
                    self._received += chunk
                    self._obey()
                elif key.data is Channel.STDIN:
                    self._feed()
                else:
                    self._forward(key.fd, key.data)

    def _forward(self, descriptor: int, channel: Channel) -> None:
        chunk = os.read(descriptor, READ_SIZE)
        if chunk:
            self._connection.sendall(frame(channel, chunk))
        else:
            self._selector.unregister(descriptor)

    def _obey(self) -> None:
        for channel, payload in take(self._received):
            if channel is Channel.SIGNAL:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self._process.pid, int(payload))
            elif channel is Channel.STDIN:
                self._stdin += payload
                self._stdin_ends |= not payload
        self._feed()

    def _feed(self) -> None:
        stdin = self._process.stdin
        if stdin is None or stdin.closed:
            return
        try:
            if self._stdin:
                del self._stdin[: os.write(stdin.fileno(), self._stdin)]
        except BlockingIOError:
            pass
        except BrokenPipeError:
            self._stdin.clear()
            self._stdin_ends = True
        watching = stdin.fileno() in self._selector.get_map()
        if self._stdin and not watching:
            self._selector.register(stdin, selectors.EVENT_WRITE, Channel.STDIN)
        elif not self._stdin and watching:
            self._selector.unregister(stdin)
        if self._stdin_ends and not self._stdin:
            stdin.close()

    def _drain(self) -> None:
        """What the ended process left in its pipes; a grandchild that keeps them open is not waited for."""
        for key in list(self._selector.get_map().values()):
            if key.data in (Channel.STDOUT, Channel.STDERR):
                os.set_blocking(key.fd, False)
                with contextlib.suppress(BlockingIOError):
                    while chunk := os.read(key.fd, READ_SIZE):
                        self._connection.sendall(frame(key.data, chunk))


if __name__ == "__main__":
    main()
