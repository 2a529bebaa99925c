"""Makes a fleet's namespaces, and unmakes them whatever happens.

A topology's names begin with a prefix of its own, and a file named after it is locked as long as its maker lives. The
next maker takes every file whose lock is free for the remains of a dead one, and removes them: namespaces, and the
processes in them. Needs root. On the machine's first namespace nothing is changed, except with an uplink.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import signal
import subprocess
from ipaddress import IPv4Interface
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from proxymode_testbeds import cache, netns
from proxymode_testbeds.topology.plan import ROUTER, UPLINK, plan, uplink

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from proxymode_testbeds.topology.fleet import Fleet

LOCKS = Path("/run/proxymode-topology")
TOKEN_BITS = 14  # of the prefix; with an uplink they also choose its addresses

T = TypeVar("T")


class Topology:
    """A fleet that is up. Names are those of the fleet's nodes, pods and clients."""

    def __init__(self, fleet: Fleet, prefix: str) -> None:
        self.fleet = fleet
        self._prefix = prefix
        self._processes: list[subprocess.Popen[str]] = []

    def netns(self, name: str) -> str:
        """The network namespace of a node, pod or client; raises KeyError for any other name."""
        if name not in {part.name for part in self.fleet.parts()}:
            raise KeyError(name)
        return self._prefix + name

    def run(self, name: str, argv: Sequence[str | Path], **options: Any) -> subprocess.CompletedProcess[str]:
        """`netns.run` in the namespace of a node, pod or client."""
        return netns.run(self.netns(name), argv, **options)

    def call(self, name: str, function: Callable[..., T], /, *args: Any, **kwargs: Any) -> T:
        """`netns.call` in the namespace of a node, pod or client."""
        return netns.call(self.netns(name), function, *args, **kwargs)

    def popen(self, name: str, argv: Sequence[str | Path], **options: Any) -> subprocess.Popen[str]:
        """`netns.popen` in the namespace of a node, pod or client. What still runs at the end is killed."""
        process = netns.popen(self.netns(name), argv, **options)
        self._processes.append(process)
        return process

    def collect(self) -> None:
        """Waits for every process that :meth:`popen` started; they must have been ended."""
        for process in self._processes:
            process.wait()
            for pipe in (process.stdin, process.stdout, process.stderr):
                if pipe is not None:
                    pipe.close()


@contextlib.contextmanager
def build(fleet: Fleet, *, with_uplink: bool = False) -> Iterator[Topology]:
    """The fleet, until the end of the context.

    `with_uplink` lets the nodes reach the networks that the machine is on (IPv4), under the machine's address: for
    agents in a guest that talk to an API server on the host. It switches forwarding on in the machine's first
    namespace and adds an nftables table there, so it is meant for guests.

    Raises OSError without the rights and CommandError where `ip` refuses something.
    """
    with _prefix() as prefix:
        wanted = plan(fleet, prefix)
        topology = Topology(fleet, prefix)
        try:
            _ip(f"netns add {prefix}{name}" for name in wanted.setups)
            for name, setup in wanted.setups.items():
                netns.call(prefix + name, _write_sysctls, setup.sysctls)
            _ip(wanted.links, prefix + ROUTER)
            for name, setup in wanted.setups.items():
                _ip(setup.lines, prefix + name)
            if with_uplink:
                _build_uplink(prefix)
            yield topology
        finally:
            remove(prefix)
            topology.collect()


def remove(prefix: str) -> None:
    """Kills what runs in the namespaces with that prefix and removes them, and the uplink if there is one."""
    names = [path.name for path in netns.FOLDER.glob(f"{prefix}*")]
    for process in _processes_in(names):
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
    link = _link_name(prefix)
    if Path("/sys/class/net", link).exists():
        _ip([f"link delete {link}"])
        # Declared first, because its maker may have died before it made it.
        _nft(f"table ip {link}\ndelete table ip {link}\n")
    _ip(f"netns delete {name}" for name in names)


def remove_leftovers() -> None:
    """Removes what makers left behind that did not live to do it."""
    for file in LOCKS.glob("pm*"):
        with file.open("w") as descriptor, contextlib.suppress(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            remove(f"{file.name}-")
            file.unlink(missing_ok=True)  # its maker may just have ended well


def no_newcomers() -> contextlib.AbstractContextManager[None]:
    """While it lasts, nobody else on the machine begins a fleet or removes what others left behind."""
    return cache.locked(LOCKS / ".lock")


@contextlib.contextmanager
def _prefix() -> Iterator[str]:
    with contextlib.ExitStack() as stack:
        with no_newcomers():  # between making and locking its file, one must not look like a dead one
            remove_leftovers()
            tokens = (f"pm{secrets.randbits(TOKEN_BITS):04x}" for _ in count())
            file = next(path for token in tokens if not (path := LOCKS / token).exists())
            descriptor = stack.enter_context(file.open("x"))
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield f"{file.name}-"
        file.unlink()


def _ip(lines: Iterator[str] | Sequence[str], namespace: str | None = None) -> None:
    argv = ["ip", "-batch", "-"]
    text = "".join(f"{line}\n" for line in lines)
    if namespace is not None:
        netns.run(namespace, argv, input=text)
        return
    done = subprocess.run(argv, input=text, text=True, capture_output=True, check=False)
    if done.returncode != 0:
        raise netns.CommandError(done.returncode, argv, done.stdout, done.stderr)


def _write_sysctls(sysctls: dict[str, str]) -> None:
    for name, value in sysctls.items():
        Path("/proc/sys/net", name).write_text(value)


def _build_uplink(prefix: str) -> None:
    """A /30 from 100.64.0.0 on (RFC 6598) between router and first namespace, masqueraded at both ends."""
    first = int(prefix.removeprefix("pm").removesuffix("-"), 16) * 4
    outside, inside = (IPv4Interface((0x64400000 + first + host, 30)) for host in (1, 2))
    link = _link_name(prefix)
    routes = subprocess.run(["ip", "-json", "-4", "route", "show", "scope", "link"], stdout=subprocess.PIPE, check=True)
    reached = [route["dst"] for route in json.loads(routes.stdout) if route["dst"] != "default"]
    line, setup = uplink(prefix, outside, inside, link, reached)
    _ip([line, f"address add {outside} dev {link}", f"link set {link} up"])
    _ip(setup.lines, prefix + ROUTER)
    netns.run(prefix + ROUTER, ["nft", "-f", "-"], input=_masquerade(link, f'oifname "{UPLINK}"'))
    _nft(_masquerade(link, f"ip saddr {inside.network}"))
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")


def _masquerade(table: str, what: str) -> str:
    return f"""
        table ip {table} {{
            chain out {{
                type nat hook postrouting priority srcnat;
                {what} masquerade
            }}
        }}
        """


def _nft(script: str) -> None:
    subprocess.run(["nft", "-f", "-"], input=script, text=True, check=True)


def _link_name(prefix: str) -> str:
    return f"{prefix}up"


def _processes_in(namespaces: list[str]) -> list[int]:
    wanted = set()
    for name in namespaces:
        # A name without a namespace behind it: its maker died between the two.
        with contextlib.suppress(OSError):
            status = (netns.FOLDER / name).stat()
            wanted.add((status.st_dev, status.st_ino))
    found = []
    for link in Path("/proc").glob("[0-9]*/ns/net"):
        with contextlib.suppress(OSError):  # ended meanwhile
            status = link.stat()
            if (status.st_dev, status.st_ino) in wanted:
                found.append(int(link.parts[2]))
    return found
