"""A command in a guest, as seen from the host: streams, signals, the exit.

The names are those of asyncio.subprocess. The other half is `proxymode_testbeds.vm_guest`; the wire between them
is described in its `frames` module.
"""

from __future__ import annotations

import asyncio
import contextlib
import shlex
import signal
from typing import TYPE_CHECKING

from proxymode_testbeds.vm_guest.frames import Channel, Request, frame, take

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

LINE_LIMIT = 1 << 24  # bytes; a listing of a whole ruleset may come as one line of JSON


class CommandRefusedError(OSError):
    """The guest did not start the command: no such file, no such namespace, no such folder."""


class ConnectionLostError(ConnectionError):
    """The command's connection ended before the command: the guest died, or its network did.

    The message ends with the guest's last words on its console.
    """


class CommandError(Exception):
    """A command ended with another code than 0. Has `argv`, `returncode`, `stdout` and `stderr`."""

    def __init__(self, argv: list[str], returncode: int, stdout: str, stderr: str) -> None:
        self.argv = argv
        self.returncode = returncode
        self.stdout = stdout
        self.stderr = stderr
        said = (stderr or stdout).strip()[-2000:] or "(no output)"
        super().__init__(f"exit {returncode} of {shlex.join(argv)} in the guest: {said}")


class GuestProcess:
    """Made by `VirtualMachine.spawn`. Leaving it as a context manager kills the command if it still runs."""

    def __init__(
        self,
        argv: list[str],
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        last_words: Callable[[], Awaitable[str]],
    ) -> None:
        self.argv = argv
        self.returncode: int | None = None
        self.stdout = asyncio.StreamReader(limit=LINE_LIMIT)
        self.stderr = asyncio.StreamReader(limit=LINE_LIMIT)
        self._reader = reader
        self._writer = writer
        self._last_words = last_words
        self._relay: asyncio.Task[None] | None = None

    @classmethod
    async def start(
        cls, host: str, port: int, request: Request, last_words: Callable[[], Awaitable[str]]
    ) -> GuestProcess:
        """Returns when the guest says that the command runs.

        `last_words` is asked for the guest's console where the connection breaks. Raises CommandRefusedError where
        the guest says it cannot run the command, ConnectionLostError where it says nothing.
        """
        reader, writer = await asyncio.open_connection(host, port)
        process = cls(request.argv, reader, writer, last_words)
        try:
            writer.write(request.encode())
            received = bytearray()
            while not received or not (frames := list(take(received))):
                chunk = await reader.read(1 << 16)
                if not chunk:
                    raise await process._lost("before it began")
                received += chunk
            (channel, payload), *others = frames
            if channel is Channel.REFUSED:
                raise CommandRefusedError(f"{shlex.join(request.argv)}: {payload.decode()}")
        except BaseException:
            writer.close()
            raise
        process._relay = asyncio.create_task(process._receive(others, received))
        return process

    async def wait(self) -> int:
        """The return code as subprocess gives it; raises ConnectionLostError where there will be none."""
        if self._relay is not None:
            await asyncio.shield(self._relay)
        if self.returncode is None:
            raise await self._lost("while it ran")
        return self.returncode

    async def write(self, data: bytes) -> None:
        """Feeds standard input."""
        if data:
            self._writer.write(frame(Channel.STDIN, data))
            await self._writer.drain()

    async def close_stdin(self) -> None:
        self._writer.write(frame(Channel.STDIN))
        await self._writer.drain()

    def send_signal(self, number: int) -> None:
        """To the command's whole process group; nothing happens where it has ended."""
        if self.returncode is None:
            self._writer.write(frame(Channel.SIGNAL, b"%d" % number))

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    async def close(self) -> None:
        """Drops the connection, upon which the guest kills what still runs of the command."""
        self._writer.close()
        with contextlib.suppress(ConnectionError):
            await self._writer.wait_closed()
        if self._relay is not None:
            await self._relay

    async def __aenter__(self) -> GuestProcess:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _lost(self, when: str) -> ConnectionLostError:
        words = await self._last_words()
        return ConnectionLostError(f"{shlex.join(self.argv)}: the guest was lost {when}; its console said:\n{words}")

    async def _receive(self, frames: list[tuple[Channel, bytes]], received: bytearray) -> None:
        """Moves frames into the streams until the exit. Reads always, so that a signal is never stuck behind output."""
        try:
            while True:
                for channel, payload in frames:
                    if channel is Channel.STDOUT:
                        self.stdout.feed_data(payload)
                    elif channel is Channel.STDERR:
                        self.stderr.feed_data(payload)
                    elif channel is Channel.EXIT:
                        self.returncode = int(payload)
                        return
                chunk = await self._reader.read(1 << 16)
                if not chunk:
                    return
                received += chunk
                frames = list(take(received))
        except ConnectionError:
            return
        finally:
            self.stdout.feed_eof()
            self.stderr.feed_eof()
            self._writer.close()
