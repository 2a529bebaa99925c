"""`python -m proxymode_testbeds.vm run -- COMMAND...`: one command in a fresh guest; `shell`: a terminal in one.

The command starts in the current folder; its standard streams are this process's, and so is its exit code. `build`
only fetches and prepares what a guest needs, into the cache.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import sys
import termios
import threading
import tty
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from proxymode_testbeds.vm import (
    KERNELS,
    BootError,
    CommandRefusedError,
    ConnectionLostError,
    QemuMissingError,
    VirtualMachine,
    qemu,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from proxymode_testbeds.vm import GuestProcess

# script gives the shell a terminal, for it gets only pipes. No start-up files: the host's may take a minute here.
SHELL = ("script", "--quiet", "--return", "--command", "bash --norc", "/dev/null")


def main() -> int:
    options = _parse()
    if options.action == "build":
        machine = qemu.prepare(options.kernel)
        print(f"Linux {machine.kernel.release}, {' '.join(machine.accelerator)}")
        return 0
    return asyncio.run(_main(options))


async def _main(options: argparse.Namespace) -> int:
    loop = asyncio.get_running_loop()
    work = asyncio.create_task(_in_guest(options))
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        loop.add_signal_handler(number, work.cancel)
    try:
        return await work
    except asyncio.CancelledError:
        return 128 + signal.SIGTERM
    except (BootError, CommandRefusedError, ConnectionLostError, QemuMissingError) as error:
        print(error, file=sys.stderr)
        return 125


async def _in_guest(options: argparse.Namespace) -> int:
    async with VirtualMachine.boot(
        memory_mb=options.memory, kernel=options.kernel, writable=options.writable, console=options.console
    ) as vm:
        command = SHELL if options.action == "shell" else options.command
        async with await vm.spawn(command, env={"TERM": os.environ.get("TERM", "dumb")}) as process:
            with _raw_terminal(options.action == "shell"):
                feeding = asyncio.create_task(_feed(process))
                await asyncio.gather(_copy(process.stdout, sys.stdout.buffer), _copy(process.stderr, sys.stderr.buffer))
                feeding.cancel()
                return _exit_code(await process.wait())


async def _copy(source: asyncio.StreamReader, target: BinaryIO) -> None:
    while chunk := await source.read(1 << 16):
        target.write(chunk)
        target.flush()


async def _feed(process: GuestProcess) -> None:
    """Standard input by a thread of its own: it may be a file, which event loops cannot wait for."""
    loop = asyncio.get_running_loop()
    chunks: asyncio.Queue[bytes] = asyncio.Queue()

    def read() -> None:
        with contextlib.suppress(OSError, RuntimeError):  # the terminal or the loop went away
            while True:
                chunk = os.read(0, 1 << 12)
                loop.call_soon_threadsafe(chunks.put_nowait, chunk)
                if not chunk:
                    return

    threading.Thread(target=read, daemon=True).start()
    with contextlib.suppress(ConnectionError):
        while chunk := await chunks.get():
            await process.write(chunk)
        await process.close_stdin()


@contextlib.contextmanager
def _raw_terminal(wanted: bool) -> Iterator[None]:
    """Keys go to the guest unread, Ctrl-C included; the terminal is itself again afterwards."""
    if not wanted or not sys.stdin.isatty():
        yield
        return
    before = termios.tcgetattr(sys.stdin)
    try:
        tty.setraw(sys.stdin)
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


def _exit_code(returncode: int) -> int:
    """As shells have it: 128 and the signal's number for a command that a signal ended."""
    return 128 - returncode if returncode < 0 else returncode


def _parse() -> argparse.Namespace:
    guest = argparse.ArgumentParser(add_help=False)
    guest.add_argument("--kernel", default="6.1", choices=list(KERNELS), help="kernel series (default: %(default)s)")
    guest.add_argument("--memory", type=int, default=1536, metavar="MB", help="the guest's (default: %(default)s)")
    guest.add_argument("--writable", type=Path, metavar="FOLDER", help="existing folder in which the guest may write")
    guest.add_argument("--console", type=Path, metavar="FILE", help="file for the guest's console output")
    parser = argparse.ArgumentParser(prog="python -m proxymode_testbeds.vm", description=__doc__)
    actions = parser.add_subparsers(dest="action", required=True)
    run = actions.add_parser("run", parents=[guest], help="one command in a fresh guest")
    run.add_argument("command", nargs="+", help="after --: the command and its arguments")
    build = actions.add_parser("build", help="fetch and prepare a guest's kernel, find out whether KVM works")
    build.add_argument("--kernel", default="6.1", choices=list(KERNELS), help="kernel series (default: %(default)s)")
    actions.add_parser("shell", parents=[guest], help="a terminal in a fresh guest")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
