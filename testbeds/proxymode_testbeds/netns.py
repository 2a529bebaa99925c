"""Running things inside a named network namespace, without leaving one's own.

A network namespace belongs to a thread (setns(2)), and a new process starts in the namespace of the thread that
made it. So each helper here enters the namespace in a short-lived thread of its own: no `ip netns exec` process
in between, and no state left behind in the caller. Creating and removing namespaces is topology's work.

Unlike `ip netns exec` nothing is mounted: /proc/net and /proc/sys/net follow the thread, /sys/class/net does not.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

FOLDER = Path("/run/netns")
CLONE_NEWNET = 0x40000000  # linux/sched.h

T = TypeVar("T")

_libc = ctypes.CDLL(None, use_errno=True)  # os.setns came with Python 3.12


def enter(name: str) -> None:
    """Moves the calling thread, and what it starts from now on, into the namespace.

    Raises FileNotFoundError for a name that is not below /run/netns, PermissionError without CAP_SYS_ADMIN.
    """
    descriptor = os.open(FOLDER / name, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if _libc.setns(descriptor, CLONE_NEWNET) != 0:
            error = ctypes.get_errno()
            raise OSError(error, os.strerror(error), str(FOLDER / name))
    finally:
        os.close(descriptor)


def call(name: str, function: Callable[..., T], /, *args: Any, **kwargs: Any) -> T:
    """`function(*args, **kwargs)` from inside the namespace; sockets it opens stay there for life.

    Raises whatever the function or :func:`enter` raises.
    """
    results: list[T] = []
    errors: list[BaseException] = []

    def body() -> None:
        try:
            enter(name)
            results.append(function(*args, **kwargs))
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=body, name=f"netns-{name}")
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


def run(
    name: str,
    argv: Sequence[str | Path],
    *,
    check: bool = True,
    input: str | None = None,  # noqa: A002 (subprocess's own name)
    timeout: float = 300.0,
) -> subprocess.CompletedProcess[str]:
    """subprocess.run with captured text output, inside the namespace; `timeout` in seconds.

    With `check`, a failed command raises CalledProcessError whose message ends with what it wrote to stderr.
    """
    done = call(
        name,
        subprocess.run,
        list(argv),
        input=input,
        timeout=timeout,
        text=True,
        capture_output=True,
        check=False,
    )
    if check and done.returncode != 0:
        raise CommandError(done.returncode, done.args, done.stdout, done.stderr)
    return done


class CommandError(subprocess.CalledProcessError):
    """A CalledProcessError that says what the command said."""

    def __str__(self) -> str:
        return f"{super().__str__()} stderr: {self.stderr.strip() or '(empty)'}"


def popen(name: str, argv: Sequence[str | Path], **options: Any) -> subprocess.Popen[str]:
    """subprocess.Popen in text mode inside the namespace."""
    process: subprocess.Popen[str] = call(name, subprocess.Popen, list(argv), text=True, **options)
    return process
