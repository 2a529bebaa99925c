"""One guest's life: start qemu, wait for the guest's word, run commands, end.

qemu dies with the thread that booted the guest (PR_SET_PDEATHSIG), so a killed test run leaves no guest behind. The
command channel and every further forward listen on the host's 127.0.0.1 only, and the guest's daemon wants a secret
that is new with each boot and reaches it in a file only root can read.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import shlex
import socket
import sys
import tempfile
from collections import deque
from pathlib import Path
from subprocess import CompletedProcess
from typing import TYPE_CHECKING, BinaryIO

import proxymode_testbeds
from proxymode_testbeds.vm import initramfs, qemu
from proxymode_testbeds.vm.monitor import Monitor
from proxymode_testbeds.vm.process import CommandError, GuestProcess
from proxymode_testbeds.vm_guest.frames import Request

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from proxymode_testbeds.vm.kernel import Kernel

BOOT_SECONDS = 600.0  # a deadline, not an estimate: emulation on a busy machine is slow
QUIT_SECONDS = 10.0
CONSOLE_LINES_KEPT = 200
LAST_WORDS_SECONDS = 2.0

HOST_ADDRESS = "10.0.2.2"  # qemu's user network gives these two
GUEST_ADDRESS = "10.0.2.15"
COMMAND_PORT = 1023


class BootError(Exception):
    """The guest ended, or said nothing in time. The message ends with its last words on the console."""


class VirtualMachine:
    """A running guest, made by :meth:`boot`."""

    host_address = HOST_ADDRESS
    """Where programs in the guest reach what listens on the host's 127.0.0.1."""

    def __init__(self, monitor: Monitor, console: Console, secret: str, port: int) -> None:
        self._monitor = monitor
        self._console = console
        self._secret = secret
        self._port = port
        self._starting = asyncio.Lock()

    @classmethod
    @contextlib.asynccontextmanager
    async def boot(
        cls,
        *,
        memory_mb: int = 1536,
        kernel: str = "6.1",
        writable: Path | None = None,
        console: Path | None = None,
    ) -> AsyncIterator[VirtualMachine]:
        """A guest with two CPUs until the end of the context.

        `writable` names an existing folder of the host in which the guest may write, at the same path; `console` a
        file that gets all the guest's console output. Raises BootError, and what `qemu.prepare` raises.
        """
        machine = await asyncio.to_thread(qemu.prepare, kernel)
        secret = secrets.token_hex(16)
        async with contextlib.AsyncExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="proxymode-vm-")))
            settings = initramfs.file("boot.env", boot_settings(machine.kernel, writable, secret).encode())
            initrd = folder / "initrd"
            initrd.write_bytes(machine.kernel.initramfs.read_bytes() + initramfs.archive([settings]))
            ours, theirs = socket.socketpair()
            stack.callback(ours.close)
            with theirs:
                command = qemu.command(
                    machine, initrd=initrd, memory_mb=memory_mb, writable=writable, monitor=theirs.fileno()
                )
                process = await asyncio.create_subprocess_exec(
                    *command,
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=asyncio.subprocess.PIPE,
                    stderr=asyncio.subprocess.STDOUT,
                    pass_fds=[theirs.fileno()],
                )
            watch = Console(process, stack.enter_context(console.open("wb")) if console else None)
            stack.push_async_callback(watch.close)
            stack.push_async_callback(_end, process)
            await watch.ready()
            monitor = await Monitor.connect(ours)
            stack.callback(monitor.close)
            port = await monitor.forward(GUEST_ADDRESS, COMMAND_PORT)
            yield cls(monitor, watch, secret, port)

    async def spawn(
        self,
        argv: Sequence[str | Path],
        *,
        netns: str | None = None,
        env: Mapping[str, str] | None = None,
        cwd: str | Path | None = None,
    ) -> GuestProcess:
        """Starts a command and returns once it runs. `env` is added to `environment()`; `cwd` is the host's.

        Raises CommandRefusedError where the guest has no such command, folder or network namespace,
        ConnectionLostError where the guest does not answer.
        """
        request = Request(
            secret=self._secret,
            argv=[str(argument) for argument in argv],
            cwd=str(cwd or Path.cwd()),
            env=environment() | dict(env or {}),
            netns=netns,
        )
        # One start at a time: qemu's user network accepts a forward's connections with a backlog of one.
        async with self._starting:
            return await GuestProcess.start("127.0.0.1", self._port, request, self._console.last_words)

    async def run(
        self,
        argv: Sequence[str | Path],
        *,
        netns: str | None = None,
        env: Mapping[str, str] | None = None,
        cwd: str | Path | None = None,
        input: str = "",  # noqa: A002 (subprocess's own name)
        timeout: float = 300.0,  # noqa: ASYNC109 (subprocess's own name; it also decides what the message says)
        check: bool = True,
    ) -> CompletedProcess[str]:
        """Runs a command to its end and returns its output as text.

        Raises as :meth:`spawn`; CommandError for another exit code than 0 unless `check` is False; TimeoutError
        after `timeout` seconds, when the command is killed.
        """
        process = await self.spawn(argv, netns=netns, env=env, cwd=cwd)
        async with process:
            try:
                async with asyncio.timeout(timeout):
                    await process.write(input.encode())
                    await process.close_stdin()
                    code = await process.wait()
            except TimeoutError:
                await process.close()
                said = (await process.stderr.read()).decode(errors="replace")[-2000:]
                message = f"{shlex.join(process.argv)} in the guest did not end within {timeout} s: {said}"
                raise TimeoutError(message) from None
            stdout = (await process.stdout.read()).decode(errors="replace")
            stderr = (await process.stderr.read()).decode(errors="replace")
        if check and code != 0:
            raise CommandError(process.argv, code, stdout, stderr)
        return CompletedProcess(process.argv, code, stdout, stderr)

    async def forward(self, guest_port: int) -> int:
        """Lets programs on the host reach a TCP port of the guest's first namespace.

        Returns the port on the host's 127.0.0.1. Connections arrive in the guest from `host_address`.
        """
        return await self._monitor.forward(GUEST_ADDRESS, guest_port)


class Console:
    """Reads qemu's output all its life, for the one line that says ready and for the post-mortem."""

    def __init__(self, process: asyncio.subprocess.Process, copy: BinaryIO | None) -> None:
        self._process = process
        self._copy = copy
        self._lines: deque[str] = deque(maxlen=CONSOLE_LINES_KEPT)
        self._ready = asyncio.Event()
        self._reading = asyncio.create_task(self._read())

    async def ready(self) -> None:
        """Returns when the guest takes commands; raises BootError when it will not."""
        waiting = asyncio.create_task(self._ready.wait())
        try:
            await asyncio.wait({waiting, self._reading}, timeout=BOOT_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            if not self._ready.is_set():
                why = "qemu ended" if self._reading.done() else f"not ready after {BOOT_SECONDS:g} s"
                raise BootError(f"the guest did not boot: {why}; its console said:\n{self._tail()}")
        finally:
            waiting.cancel()

    async def last_words(self) -> str:
        """The end of what was said so far; waits a moment for a guest that is about to die to say why."""
        await asyncio.wait({self._reading}, timeout=LAST_WORDS_SECONDS)
        return self._tail()

    async def close(self) -> None:
        await self._reading

    def _tail(self) -> str:
        return "\n".join(self._lines)

    async def _read(self) -> None:
        assert self._process.stdout is not None
        async for raw in self._process.stdout:
            if self._copy is not None:
                self._copy.write(raw)
                self._copy.flush()
            line = raw.decode(errors="replace").rstrip()
            self._lines.append(line)
            if line.endswith("proxymode-vm: ready"):
                self._ready.set()


def environment() -> dict[str, str]:
    """What a command in the guest finds in its environment: this interpreter's programs first on PATH."""
    system = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    fixed = {"PATH": f"{Path(sys.executable).parent}:{system}", "HOME": str(Path.home()), "LANG": "C.UTF-8"}
    cache = {name: os.environ[name] for name in ("PROXYMODE_CACHE",) if name in os.environ}
    return fixed | cache


def boot_settings(kernel: Kernel, writable: Path | None, secret: str) -> str:
    """The text of /boot.env, which `vm_guest/init.sh` reads: shell assignments."""
    values = {
        "MODULES": kernel.modules,
        "RELEASE": kernel.release,
        "WRITABLE": writable.absolute() if writable else "",
        "SECRET": secret,
        "PORT": COMMAND_PORT,
        "PYTHON": sys.executable,
        "PYTHONPATH": Path(proxymode_testbeds.__file__).parents[1],
    }
    return "".join(f"{name}={shlex.quote(str(value))}\n" for name, value in values.items())


async def _end(process: asyncio.subprocess.Process) -> None:
    """Nothing of the guest is worth an orderly shutdown: what it wrote for the host is already with the host."""
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    try:
        async with asyncio.timeout(QUIT_SECONDS):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()
