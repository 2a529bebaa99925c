"""The VM bed as seen from the host: a guest boots, does as it is told, and is gone afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from proxymode_testbeds.vm import (
    BootError,
    CommandError,
    CommandRefusedError,
    ConnectionLostError,
    VirtualMachine,
    accelerator,
    qemu,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="module")]

DEADLINE_SECONDS = 180.0


@pytest.fixture(scope="module")
def writable(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("writable")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def vm(writable: Path) -> AsyncIterator[VirtualMachine]:
    async with VirtualMachine.boot(writable=writable) as machine:
        yield machine


async def eventually(condition: Callable[[], Awaitable[bool]], what: str) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not await condition():
        assert time.monotonic() < deadline, f"not within {DEADLINE_SECONDS:g} s: {what}"
        await asyncio.sleep(0.1)


async def test_the_guest_has_another_kernel_and_the_hosts_files(vm: VirtualMachine) -> None:
    release = (await vm.run(["uname", "-r"])).stdout.strip()
    assert release.startswith("6.1.")
    assert release != os.uname().release
    here = Path(__file__)
    assert (await vm.run(["cat", here])).stdout == await asyncio.to_thread(here.read_text)
    assert (await vm.run(["pwd"])).stdout.strip() == str(Path.cwd())


async def test_streams_and_the_exit_code_come_apart(vm: VirtualMachine) -> None:
    done = await vm.run(["sh", "-c", "echo out; echo err >&2; cat; exit 3"], input="in", check=False)
    assert (done.returncode, done.stdout, done.stderr) == (3, "out\nin", "err\n")


async def test_a_failed_command_raises_with_its_words(vm: VirtualMachine) -> None:
    with pytest.raises(CommandError, match=r"exit 4 of sh .*: it broke"):
        await vm.run(["sh", "-c", "echo it broke >&2; exit 4"])


async def test_a_command_that_is_not_there_is_refused(vm: VirtualMachine) -> None:
    with pytest.raises(CommandRefusedError, match="no-such-command"):
        await vm.run(["no-such-command"])
    with pytest.raises(CommandRefusedError, match="no-such-namespace"):
        await vm.run(["true"], netns="no-such-namespace")


async def test_a_large_output_arrives_whole(vm: VirtualMachine) -> None:
    text = "".join(f"{n}\n" for n in range(300_000))
    assert (await vm.run(["cat"], input=text)).stdout == text


async def test_a_signal_ends_a_spawned_command(vm: VirtualMachine) -> None:
    async with await vm.spawn(["sh", "-c", "trap 'echo bye; exit 0' TERM; echo hi; while :; do sleep 0.1; done"]) as p:
        assert await p.stdout.readline() == b"hi\n"
        p.terminate()
        assert await p.wait() == 0
        assert await p.stdout.read() == b"bye\n"
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        async with await vm.spawn(["sleep", "1000"]) as process:
            process.send_signal(number)
            assert await process.wait() == -number


async def test_a_lost_connection_ends_the_command(vm: VirtualMachine) -> None:
    process = await vm.spawn(["sh", "-c", "echo $$; exec sleep 1000"])
    pid = int(await process.stdout.readline())
    await process.close()
    with pytest.raises(ConnectionLostError):
        await process.wait()

    async def gone() -> bool:
        return (await vm.run(["test", "-e", f"/proc/{pid}"], check=False)).returncode == 1

    await eventually(gone, f"end of process {pid} in the guest")


async def test_a_command_that_takes_too_long_is_killed(vm: VirtualMachine) -> None:
    for seconds in (1, 10, 100):  # a busy machine may take a while to get to the first word
        with pytest.raises(TimeoutError, match=rf"sleep 1000.* within {seconds} s: ") as raised:
            await vm.run(["sh", "-c", "echo waiting >&2; sleep 1000"], timeout=seconds)
        if str(raised.value).endswith("waiting\n"):
            return
    pytest.fail(str(raised.value))


async def test_commands_run_at_the_same_time(vm: VirtualMachine) -> None:
    """Each waits for a word from the next: in turn they would never end."""
    script = "mkfifo $1 2>/dev/null; case $2 in first) cat $1;; *) echo word > $1;; esac"
    runs = [vm.run(["sh", "-c", script, "sh", "/run/fifo", role]) for role in ("first", "second")]
    first, _ = await asyncio.gather(*runs)
    assert first.stdout == "word\n"


async def test_a_command_runs_in_a_network_namespace(vm: VirtualMachine) -> None:
    await vm.run(["ip", "netns", "add", "apart"])
    assert "eth0" not in (await vm.run(["ip", "-o", "link"], netns="apart")).stdout
    assert "eth0" in (await vm.run(["ip", "-o", "link"])).stdout


async def test_only_the_writable_folder_keeps_what_the_guest_writes(
    vm: VirtualMachine, writable: Path, tmp_path: Path
) -> None:
    for folder in (writable, tmp_path):
        await vm.run(["sh", "-c", 'echo result > "$1/file"', "sh", folder])
        assert (await vm.run(["cat", folder / "file"])).stdout == "result\n"
    assert (writable / "file").read_text() == "result\n"
    assert not (tmp_path / "file").exists()
    (writable / "from-host").write_text("late")
    assert (await vm.run(["cat", writable / "from-host"])).stdout == "late"


@contextlib.asynccontextmanager
async def greeter() -> AsyncIterator[int]:
    """A server on the host's loopback that says hello; its port."""

    async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(greet, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


GREETED = "import socket, sys; print(socket.create_connection((sys.argv[1], int(sys.argv[2]))).recv(9).decode())"


async def test_the_guest_reaches_the_hosts_loopback(vm: VirtualMachine) -> None:
    async with greeter() as port:
        done = await vm.run(["python", "-c", GREETED, vm.host_address, str(port)])
    assert done.stdout == "hello\n"


async def test_a_node_of_a_fleet_reaches_the_hosts_loopback_through_an_uplink(vm: VirtualMachine) -> None:
    command = ["python", "-m", "proxymode_testbeds.topology", "--nodes", "1", "--pods", "1", "--uplink"]
    async with greeter() as port, await vm.spawn(command) as holder:
        names = json.loads(await holder.stdout.readline())
        done = await vm.run(["python", "-c", GREETED, vm.host_address, str(port)], netns=names["node1"])
        assert done.stdout == "hello\n"
        # What no Service takes must not leave the guest.
        with pytest.raises(CommandError, match="unreachable"):
            await vm.run(["python", "-c", GREETED, "10.96.0.10", "80"], netns=names["node1"])
        await holder.close_stdin()
        assert await holder.wait() == 0
    assert not set((await vm.run(["ip", "netns"])).stdout.split()) - {"apart"}
    assert (await vm.run(["nft", "list", "tables"])).stdout == ""


async def test_the_host_reaches_a_port_of_the_guest_on_request(vm: VirtualMachine) -> None:
    serve = "import socket; s = socket.create_server(('', 8000)); print('up', flush=True); s.accept()[0].send(b'hi')"
    async with await vm.spawn(["python", "-c", serve]) as server:
        assert await server.stdout.readline() == b"up\n"
        reader, writer = await asyncio.open_connection("127.0.0.1", await vm.forward(8000))
        assert await reader.read() == b"hi"
        writer.close()
        await writer.wait_closed()


async def test_without_the_secret_nothing_runs(vm: VirtualMachine) -> None:
    stranger = VirtualMachine(vm._monitor, vm._console, "guess", vm._port)
    with pytest.raises(CommandRefusedError, match="wrong secret"):
        await stranger.run(["true"])


async def test_a_guest_that_dies_under_a_command_says_why() -> None:
    async with VirtualMachine.boot() as vm:
        with pytest.raises(ConnectionLostError, match=r"lost while it ran(?s:.)*sysrq triggered crash"):
            await vm.run(["sh", "-c", "echo c > /proc/sysrq-trigger"])


async def test_a_guest_that_cannot_boot_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxymode_testbeds.vm.machine.boot_settings", lambda *_: "exit 1\n")
    with pytest.raises(BootError, match=r"qemu ended.*(?s:.)*Attempted to kill init"):
        async with VirtualMachine.boot():
            pass


async def test_the_probe_for_kvm_knows_a_guest_that_boots_from_one_that_does_not() -> None:
    """By emulation, which works everywhere; and without an initramfs."""
    machine = await asyncio.to_thread(qemu.prepare, "6.1")
    probe = functools.partial(accelerator.boots, qemu=machine.program, accelerator=accelerator.EMULATION, seconds=120)
    assert await asyncio.to_thread(probe, machine.kernel)
    no_kernel = machine.kernel._replace(initramfs=Path(__file__))
    assert not await asyncio.to_thread(probe, no_kernel)


async def test_the_guest_dies_with_its_maker(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "proxymode_testbeds.vm", "run", "--", "sh", "-c", "echo up; sleep 1000"]
    maker = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    try:
        assert maker.stdout is not None
        assert await maker.stdout.readline() == b"up\n"
        (child,) = children(maker.pid)
        assert program(child) == "qemu-system-x86"
    finally:
        maker.kill()
        await maker.wait()

    async def gone() -> bool:
        return has_ended(child)

    await eventually(gone, f"end of qemu, process {child}")


def children(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def program(pid: str) -> str:
    return Path("/proc", pid, "comm").read_text().strip()


def has_ended(pid: str) -> bool:
    """Also when nobody has collected its exit code yet."""
    try:
        return Path("/proc", pid, "stat").read_text().rpartition(") ")[2][0] in "ZX"
    except FileNotFoundError:
        return True


async def test_the_command_line_hands_streams_and_exit_code_through(tmp_path: Path) -> None:
    console = tmp_path / "console"
    options = ["--console", str(console), "--kernel", "6.12", "--writable", str(tmp_path)]
    command = [sys.executable, "-m", "proxymode_testbeds.vm", "run", *options, "--"]
    script = 'uname -r; cat; echo err >&2; touch "$1/made"; exit 7'
    run = await asyncio.create_subprocess_exec(
        *command,
        *("sh", "-c", script, "sh", tmp_path),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    stdout, stderr = await run.communicate(b"piped")
    release, _, rest = stdout.partition(b"\n")
    assert release.startswith(b"6.12.")
    assert rest == b"piped"
    assert stderr.endswith(b"err\n")
    assert run.returncode == 7
    assert (tmp_path / "made").exists()
    assert "proxymode-vm: ready" in console.read_text()
