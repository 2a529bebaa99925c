"""NodePorts on loopback: which ports, which endpoints, and bytes through real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from proxymode_agent.localhost import LocalhostNodePorts
from proxymode_agent.localhost.plan import DIALS, NodePorts, Pin, Target, candidates, pinned
from proxymode_agent.localhost.relay import Stream, relay
from proxymode_agent.metrics import Metrics
from proxymode_agent.services.model import (
    DataplaneConfig,
    Endpoint,
    Family,
    Frontend,
    Protocol,
    ServicePort,
    ServicePortName,
    ServiceState,
)
from proxymode_api.modes import Mode
from proxymode_testbeds.ports import free_port

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

DEADLINE = 60.0
ON = DataplaneConfig(localhost_node_ports=True)
ENDS = tuple(Endpoint(bytes([10, 1, 0, number]), 8080) for number in range(1, 7))


def port(
    name: str = "web",
    node_port: int | None = 30080,
    endpoints: tuple[Endpoint, ...] = ENDS[:2],
    protocol: Protocol = Protocol.TCP,
    family: Family = Family.IPV4,
) -> ServicePort:
    return ServicePort(
        ServicePortName("ns", name, "", protocol, family),
        Frontend(bytes(family), protocol, 80),
        endpoints,
        node_port,
    )


def wanted(*ports: ServicePort) -> dict[str, tuple[Endpoint, ...]]:
    found = NodePorts().update({port.name: port for port in ports}, None)
    return {str(address): target.endpoints for address, target in found.items()}


def test_tcp_node_ports_with_endpoints_are_listened_on_in_their_family() -> None:
    six = (Endpoint(bytes(15) + b"\1", 8080),)
    assert wanted(
        port(),
        port("six", 30080, six, family=Family.IPV6),
        port("cluster-only", None),
        port("udp", 30053, protocol=Protocol.UDP),
        port("sctp", 30054, protocol=Protocol.SCTP),
        port("empty", 30081, ()),
    ) == {"127.0.0.1:30080": ENDS[:2], "[::1]:30080": six}


def test_policy_local_takes_this_nodes_endpoints_only() -> None:
    local = replace(port(), external_local=True, local_endpoints=ENDS[1:2])
    assert wanted(local) == {"127.0.0.1:30080": ENDS[1:2]}
    assert wanted(replace(local, local_endpoints=())) == {}, "nobody listens, so connections are refused"


ports = st.builds(
    port,
    st.sampled_from(["a", "b", "c"]),
    st.none() | st.sampled_from([30001, 30002]),
    st.sampled_from([(), ENDS[:1], ENDS[1:3]]),
    st.sampled_from([Protocol.TCP, Protocol.UDP]),
)


@given(st.lists(st.tuples(ports, st.booleans()), max_size=20))
def test_updates_one_by_one_end_as_a_fresh_build(story: list[tuple[ServicePort, bool]]) -> None:
    state: dict[ServicePortName, ServicePort] = {}
    kept = NodePorts()
    for changed, gone in story:
        if gone:
            state.pop(changed.name, None)
        else:
            state[changed.name] = changed
        assert kept.update(state, [changed.name]) == NodePorts().update(state, None)


def test_a_port_that_two_services_claim_is_the_firsts() -> None:
    assert wanted(port("b", endpoints=ENDS[1:2]), port("a", endpoints=ENDS[:1])) == {"127.0.0.1:30080": ENDS[:1]}


@given(st.integers(1, 6), st.none() | st.integers(0, 5), st.none() | st.just(60), st.booleans(), st.randoms())
def test_the_pinned_endpoint_is_tried_first_while_it_counts(
    count: int, pin: int | None, affinity: int | None, expired: bool, chance: random.Random
) -> None:
    target = Target(port().name, ENDS[:count], affinity)
    held = None if pin is None else Pin(ENDS[pin], 99.0 if expired else 101.0)
    order = candidates(target, held, 100.0, chance)
    assert set(order) <= set(target.endpoints)
    assert len(order) == len(set(order)) == min(DIALS, count)
    if held is not None and affinity is not None and not expired and held.endpoint in target.endpoints:
        assert order[0] == held.endpoint
    assert pinned(target, ENDS[0], 100.0) == (Pin(ENDS[0], 160.0) if affinity else None)


class Pods:
    """Echo servers on loopback; each answers with its number first, and repeats what it is sent until the end."""

    def __init__(self) -> None:
        self.servers: list[asyncio.Server] = []
        self.connections = 0

    async def add(self) -> Endpoint:
        number = len(self.servers)

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self.connections += 1
            with contextlib.suppress(OSError):
                writer.write(b"%d" % number)
                while data := await reader.read(1 << 16):
                    writer.write(data)
                    await writer.drain()
                writer.write(b"bye")
                writer.close()
                await writer.wait_closed()
            self.connections -= 1

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        self.servers.append(server)
        return Endpoint(bytes([127, 0, 0, 1]), server.sockets[0].getsockname()[1])


class Bench:
    def __init__(self, proxy: LocalhostNodePorts, metrics: Metrics, pods: Pods, node_port: int) -> None:
        self.proxy, self.metrics, self.pods, self.node_port = proxy, metrics, pods, node_port
        self.failures: list[str] = []

    def sync(self, *ports: ServicePort, mode: Mode = Mode.NFTABLES, config: DataplaneConfig = ON) -> None:
        self.proxy.synced(mode, config, ServiceState({port.name: port for port in ports}), None)

    def value(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(f"proxymode_agent_localhost_nodeport_{name}", labels) or 0.0

    async def listening(self, count: int = 1) -> None:
        await eventually(lambda: self.value("listeners") == count)

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.node_port)

    async def ask(self) -> str:
        """Which pod answers."""
        reader, writer = await self.connect()
        writer.write_eof()
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
        return answer.decode()


async def eventually(condition: Callable[[], object]) -> None:
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(0.001)


@asynccontextmanager
async def bench(connections: int = 10, half_closed_seconds: float = DEADLINE) -> AsyncIterator[Bench]:
    node_port = free_port()
    metrics, pods = Metrics(), Pods()
    failures: list[str] = []
    proxy = LocalhostNodePorts(
        metrics,
        on_failure=lambda name, reason: failures.append(f"{name}: {reason}"),
        connections=connections,
        half_closed_seconds=half_closed_seconds,
    )
    it = Bench(proxy, metrics, pods, node_port)
    it.failures = failures
    task = asyncio.create_task(proxy.run())
    try:
        async with asyncio.timeout(DEADLINE):
            yield it
    finally:
        task.cancel()
        await asyncio.wait([task])
        for server in pods.servers:
            server.close()
        await eventually(lambda: not pods.connections)
    if not task.cancelled() and (error := task.exception()):
        raise error


async def test_a_connection_reaches_an_endpoint_and_its_end_is_passed_on() -> None:
    async with bench() as it:
        end = await it.pods.add()
        it.sync(port(node_port=it.node_port, endpoints=(end,)))
        await it.listening()
        reader, writer = await it.connect()
        sent = random.Random(1).randbytes(3 << 20)

        async def send() -> None:
            writer.write(sent)
            await writer.drain()
            writer.write_eof()

        sending = asyncio.create_task(send())
        assert await reader.read() == b"0" + sent + b"bye", "the answer that follows the end of the question"
        await sending
        writer.close()
        await writer.wait_closed()
        assert it.value("connections_total", result="accepted") == 1


async def test_all_endpoints_are_used_and_one_that_does_not_answer_is_passed_over() -> None:
    async with bench() as it:
        ends = tuple([await it.pods.add() for _ in range(3)])
        it.sync(port(node_port=it.node_port, endpoints=ends))
        await it.listening()
        seen: set[str] = set()
        while len(seen) < 3:
            seen.add(await it.ask())
        it.pods.servers[1].close()
        for _ in range(20):
            assert await it.ask() in {"0bye", "2bye"}


async def test_with_affinity_all_connections_go_to_one_endpoint_until_it_is_gone() -> None:
    async with bench() as it:
        ends = tuple([await it.pods.add() for _ in range(5)])
        sticky = replace(port(node_port=it.node_port, endpoints=ends), affinity_seconds=3600)
        it.sync(sticky)
        await it.listening()
        first = await it.ask()
        assert {await it.ask() for _ in range(20)} == {first}
        gone = int(first[0])
        it.sync(replace(sticky, cluster_endpoints=ends[:gone] + ends[gone + 1 :]))
        second = await it.ask()
        assert second != first
        assert {await it.ask() for _ in range(20)} == {second}


async def test_without_the_option_or_in_ipvs_mode_nobody_listens() -> None:
    async with bench() as it:
        end = await it.pods.add()
        web = port(node_port=it.node_port, endpoints=(end,))
        it.sync(web)
        await it.listening()
        reader, writer = await it.connect()
        assert await reader.read(1) == b"0"
        it.sync(web, config=DataplaneConfig())
        await it.listening(0)
        with pytest.raises(ConnectionRefusedError):
            await it.connect()
        writer.write(b"x")
        assert await reader.read(1) == b"x", "connections go on, as those that the kernel translates"
        it.sync(web)
        await it.listening()
        it.sync(web, mode=Mode.IPVS)
        await it.listening(0)
        writer.close()
        await writer.wait_closed()


async def test_no_more_connections_than_there_is_room_for() -> None:
    async with bench(connections=2) as it:
        it.sync(port(node_port=it.node_port, endpoints=(await it.pods.add(),)))
        await it.listening()
        held = [await it.connect() for _ in range(2)]
        for reader, _ in held:
            assert await reader.read(1) == b"0"
        reader, writer = await it.connect()
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read() == b""
        writer.close()
        assert it.value("connections_total", result="refused") == 1
        held[0][1].close()
        answers = ""
        while answers != "0bye":
            with contextlib.suppress(OSError):
                answers = await it.ask()
        held[1][1].close()


async def test_endpoints_that_do_not_answer_end_the_connection() -> None:
    async with bench() as it:
        end = await it.pods.add()
        it.pods.servers[0].close()
        it.sync(port(node_port=it.node_port, endpoints=(end,)))
        await it.listening()
        reader, writer = await it.connect()
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read() == b""
        writer.close()
        assert it.value("connections_total", result="failed") == 1


async def test_a_port_that_is_taken_is_told_once_and_tried_again() -> None:
    async with bench() as it:
        end = await it.pods.add()
        with socket.create_server(("127.0.0.1", it.node_port)):
            it.sync(port(node_port=it.node_port, endpoints=(end,)))
            await eventually(lambda: it.failures)
            it.sync(port(node_port=it.node_port, endpoints=(end, ENDS[0])))
            it.sync(port(node_port=it.node_port, endpoints=(end,)))
        await it.listening()
        assert it.failures == [f"ns/web: cannot listen on 127.0.0.1:{it.node_port}: Address already in use"]
        assert await it.ask() == "0bye"


async def test_a_side_that_stays_silent_after_the_other_has_ended_is_not_kept_for_ever() -> None:
    loop = asyncio.get_running_loop()
    with contextlib.ExitStack() as stack:
        outer: list[socket.socket] = []
        inner: list[Stream] = []
        for _ in range(2):
            here, there = socket.socketpair()
            outer.append(stack.enter_context(here))
            here.setblocking(False)
            inner.append(Stream(*await asyncio.open_connection(sock=there)))
        outer[0].shutdown(socket.SHUT_WR)
        async with asyncio.timeout(DEADLINE):
            await relay(inner[0], inner[1], half_closed_seconds=0.05)
            for mine in outer:
                assert await loop.sock_recv(mine, 1) == b"", "both are closed"
