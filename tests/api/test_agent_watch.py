"""The agent's list+watch of Services, EndpointSlices and its Node against a real API surface."""

from __future__ import annotations

import asyncio
import json
import ssl
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

import msgspec
import pytest

from proxymode_agent.kube.client import KubeClient
from proxymode_agent.kube.cluster import ClusterConfig
from proxymode_agent.kube.config import load
from proxymode_agent.kube.credentials import Credential, StaticCredentials
from proxymode_agent.kube.errors import ApiError
from proxymode_agent.kube.listing import raw_items
from proxymode_agent.kube.listwatch import Changed, Deleted, ListWatch, Synced
from proxymode_agent.kube.objects import decode_endpoint_slice, decode_service
from proxymode_agent.kube.own_node import NodeView, OwnNode, host_ips
from proxymode_agent.kube.restarts import RestartReason, Timing
from proxymode_agent.services.labels import OURS_SELECTOR, PROXY_NAME_LABEL, SERVICE_NAME_LABEL
from proxymode_agent.services.tracker import ServiceTracker

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from proxymode_testbeds.apiserver import ApiServer

DEADLINE = 60.0


@pytest.fixture
async def kube(api: ApiServer) -> AsyncIterator[KubeClient]:
    """A client as the agent makes it, from a kubeconfig file: TLS with the server's own authority, bearer token."""
    async with KubeClient(load(api.kubeconfig())) as client:
        yield client


def service(namespace: str, name: str, address: str, **metadata: Any) -> str:
    return json.dumps(
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": name, "namespace": namespace} | metadata,
            "spec": {
                "clusterIP": address,
                "clusterIPs": [address],
                "ports": [{"name": "http", "port": 80, "protocol": "TCP"}],
            },
        }
    )


def slice_of(namespace: str, name: str, *addresses: str) -> str:
    return json.dumps(
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {"name": f"{name}-1", "namespace": namespace, "labels": {SERVICE_NAME_LABEL: name}},
            "addressType": "IPv4",
            "endpoints": [{"addresses": [address], "conditions": {"ready": True}} for address in addresses],
            "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        }
    )


async def apply(api: ApiServer, *objects: str) -> None:
    await api.kubectl("apply", "--filename=-", stdin="\n---\n".join(objects))


class Follower:
    """Both watches into a tracker, limited to one namespace; `addresses` tells what a Service leads to."""

    def __init__(self, kube: KubeClient, namespace: str, timing: Timing) -> None:
        self.tracker = ServiceTracker()
        self.restarts: list[RestartReason] = []
        self.synced: set[str] = set()
        self._changed = asyncio.Event()
        self._services = ListWatch(
            kube,
            f"/api/v1/namespaces/{namespace}/services",
            decode_service,
            label_selector=OURS_SELECTOR,
            timing=timing,
            restarted=self._restarted,
        )
        self._slices = ListWatch(
            kube,
            f"/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices",
            decode_endpoint_slice,
            label_selector=OURS_SELECTOR,
            timing=timing,
        )

    def _restarted(self, reason: RestartReason) -> None:
        self.restarts.append(reason)
        self._changed.set()

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._follow_services())
            tasks.create_task(self._follow_slices())

    async def _follow_services(self) -> None:
        async for event in self._services.events():
            match event:
                case Changed(key, changed):
                    self.tracker.set_service(key, changed)
                case Deleted(key):
                    self.tracker.drop_service(key)
                case Synced():
                    self.synced.add("services")
            self._changed.set()

    async def _follow_slices(self) -> None:
        async for event in self._slices.events():
            match event:
                case Changed(key, changed):
                    self.tracker.set_slice(key, changed)
                case Deleted(key):
                    self.tracker.drop_slice(key)
                case Synced():
                    self.synced.add("slices")
            self._changed.set()

    async def until(self, expected: dict[str, list[str]]) -> None:
        """Until every Service leads to these endpoints, and no other Service is known."""
        found: dict[str, list[str]] = {}
        try:
            async with asyncio.timeout(DEADLINE):
                while True:
                    self._changed.clear()
                    ports = self.tracker.take().state.ports.values()
                    found = {port.name.service: [str(endpoint) for endpoint in port.endpoints] for port in ports}
                    if found == expected and len(self.synced) == 2:
                        return
                    await self._changed.wait()
        except TimeoutError:
            pytest.fail(f"expected {expected}, found {found} at the end")

    async def until_restarted(self, reason: RestartReason, times: int) -> None:
        async with asyncio.timeout(DEADLINE):
            while self.restarts.count(reason) < times:
                self._changed.clear()
                await self._changed.wait()


@pytest.fixture(params=[Timing(), Timing(watch=0.6)], ids=["long watches", "watches that end every second"])
async def follower(request: pytest.FixtureRequest, kube: KubeClient, namespace: str) -> AsyncIterator[Follower]:
    follower = Follower(kube, namespace, request.param)
    task = asyncio.create_task(follower.run())
    yield follower
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled(), task.exception()


async def test_services_and_slices_are_followed_through_their_lives(
    api: ApiServer, namespace: str, follower: Follower
) -> None:
    await follower.until({})
    await apply(api, service(namespace, "web", "10.96.7.1"), slice_of(namespace, "web", "10.1.0.1", "10.1.0.2"))
    await follower.until({"web": ["10.1.0.1:8080", "10.1.0.2:8080"]})
    await apply(api, slice_of(namespace, "web", "10.1.0.2", "10.1.0.3"))
    await follower.until({"web": ["10.1.0.2:8080", "10.1.0.3:8080"]})
    await apply(api, service(namespace, "db", "10.96.7.2"))
    await follower.until({"web": ["10.1.0.2:8080", "10.1.0.3:8080"], "db": []})
    await api.kubectl("delete", "endpointslice", "web-1", "--namespace", namespace)
    await follower.until({"web": [], "db": []})
    await api.kubectl("delete", "service", "web", "--namespace", namespace)
    await follower.until({"db": []})
    assert set(follower.restarts) <= {RestartReason.ENDED}, "no list was needed after the first"


async def test_a_service_that_another_proxy_takes_over_is_gone_for_us(
    api: ApiServer, namespace: str, follower: Follower
) -> None:
    await apply(api, service(namespace, "web", "10.96.7.1"))
    await follower.until({"web": []})
    await api.kubectl("label", "service", "web", f"{PROXY_NAME_LABEL}=other", "--namespace", namespace)
    await follower.until({})
    await api.kubectl("label", "service", "web", f"{PROXY_NAME_LABEL}-", "--namespace", namespace)
    await follower.until({"web": []})


async def test_many_objects_come_in_pages(api: ApiServer, kube: KubeClient, namespace: str) -> None:
    names = [f"web-{number}" for number in range(12)]
    await apply(api, *(service(namespace, name, f"10.96.8.{number}") for number, name in enumerate(names)))
    path = f"/api/v1/namespaces/{namespace}/services"
    pages = [page async for page in kube.pages(path, raw_items, page_size=5)]
    assert [len(page.items) for page in pages] == [5, 5, 2]
    assert len({page.resource_version for page in pages}) == 1
    assert sorted(decode_service(item).metadata.name for page in pages for item in page.items) == sorted(names)


async def test_the_own_node_is_followed(api: ApiServer, kube: KubeClient) -> None:
    name = "agent-watch-node"
    own = OwnNode(kube, name)
    task = asyncio.create_task(own.run())
    try:
        async with asyncio.timeout(DEADLINE):
            view = await own.view.changed(NodeView())
            assert view == NodeView(known=True, node=None)
            assert view.eligible
            await apply(api, json.dumps({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}}))
            status = {"status": {"addresses": [{"type": "InternalIP", "address": "192.168.9.9"}]}}
            await api.kubectl("patch", "node", name, "--subresource=status", "--patch", json.dumps(status))
            while view.node is None or not host_ips(view.node):
                view = await own.view.changed(view)
            assert host_ips(view.node) == (bytes([192, 168, 9, 9]),)
            taints = {"spec": {"taints": [{"key": "ToBeDeletedByClusterAutoscaler", "effect": "NoSchedule"}]}}
            await api.kubectl("patch", "node", name, "--patch", json.dumps(taints))
            while view.eligible:
                view = await own.view.changed(view)
            await api.kubectl("delete", "node", name)
            while view.node is not None:
                view = await own.view.changed(view)
            await apply(api, json.dumps({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}}))
            while (view := await own.view.changed(view)).node is None:
                pass
            assert host_ips(view.node) == (bytes([192, 168, 9, 9]),), "until somebody says others"
    finally:
        task.cancel()
        await asyncio.wait([task])


async def test_the_servers_refusals_arrive_in_its_own_words(api: ApiServer, kube: KubeClient) -> None:
    with pytest.raises(ApiError, match='services "none" not found') as missing:
        await kube.get("/api/v1/namespaces/default/services/none")
    assert (missing.value.status, missing.value.reason) == (404, "NotFound")
    stranger = ClusterConfig(
        server=api.url, credentials=StaticCredentials(Credential("wrong")), ca_data=api.ca_file.read_bytes()
    )
    async with KubeClient(stranger) as client:
        with pytest.raises(ApiError) as refused:
            await client.get("/api/v1/nodes")
    assert refused.value.status == 401


async def test_a_server_with_an_unknown_authority_is_not_talked_to(api: ApiServer) -> None:
    config = ClusterConfig(server=api.url, credentials=StaticCredentials(Credential("secret")))
    async with KubeClient(config) as client:
        with pytest.raises(ApiError, match="certificate") as refused:
            await client.get("/version")
    assert refused.value.reason == "ConnectionError"


async def test_authorities_that_are_renewed_while_the_agent_runs(api: ApiServer, tmp_path: Path) -> None:
    others = ssl.DER_cert_to_PEM_cert(ssl.create_default_context().get_ca_certs(binary_form=True)[0])
    ca_file = tmp_path / "ca.crt"
    ca_file.write_text(others)
    usual = load(api.kubeconfig())
    config = msgspec.structs.replace(usual, ca_data=others.encode(), ca_file=ca_file)
    async with KubeClient(config) as client:
        with pytest.raises(ApiError, match="certificate"):
            await client.get("/version")
        ca_file.write_bytes(b"caf\xe9")
        for _ in range(2):
            with pytest.raises(ApiError, match=r"certificate"):
                await client.get("/version")
        ca_file.write_bytes(api.ca_file.read_bytes())
        with suppress(ApiError):
            await client.get("/version")  # the file is read when the server is not believed
        assert "major" in await client.get("/version")


class Settled:
    """Credentials that are others when the test says so."""

    def __init__(self, credential: Credential) -> None:
        self.credential = credential

    async def current(self) -> Credential:
        return self.credential

    def invalidate(self) -> None: ...


async def admin(server: ApiServer) -> Credential:
    return await load(server.kubeconfig()).credentials.current()


class Address:
    """One address behind which there is first one API server and then another, or none."""

    def __init__(self) -> None:
        self.behind: ApiServer | None = None
        self._open: set[asyncio.StreamWriter] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._forward, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.put(None)
        self._server.close()
        await self._server.wait_closed()

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def put(self, server: ApiServer | None) -> None:
        self.behind = server
        for writer in self._open:
            writer.transport.abort()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.behind is None:
            writer.transport.abort()
            return
        url = urlsplit(self.behind.url)
        further = await asyncio.open_connection(url.hostname, url.port)
        self._open |= {writer, further[1]}
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(_copy(reader, further[1]))
                tasks.create_task(_copy(further[0], writer))
        finally:
            for one in (writer, further[1]):
                self._open.discard(one)
                one.transport.abort()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    writer.transport.abort()


async def test_a_cluster_that_was_set_back_is_seen_as_it_is_now(
    api: ApiServer, namespace: str, empty_api: ApiServer
) -> None:
    """As after a restore of etcd: for hours a watch from where we were would be open and silent."""
    names = [f"before-{number}" for number in range(1, 13)]
    await apply(api, *(service(namespace, name, f"10.96.7.{number}") for number, name in enumerate(names, 1)))
    await empty_api.kubectl("create", "namespace", namespace)
    async with Address() as address:
        address.put(api)
        credentials = Settled(await admin(api))
        config = ClusterConfig(address.url, credentials, insecure=True)
        async with KubeClient(config) as client:
            follower = Follower(client, namespace, Timing(backoff_first=0.01, backoff_cap=0.1))
            task = asyncio.create_task(follower.run())
            await follower.until({name: [] for name in names})
            address.put(None)
            await follower.until_restarted(RestartReason.CONNECTION, 2)
            credentials.credential = await admin(empty_api)
            address.put(empty_api)
            await apply(empty_api, service(namespace, "after", "10.96.8.1"))
            await follower.until({"after": []})
            assert RestartReason.RESTORED in follower.restarts
            task.cancel()
            await asyncio.wait([task])


async def test_apply_and_create(api: ApiServer, kube: KubeClient, namespace: str) -> None:
    path = f"/api/v1/namespaces/{namespace}/configmaps"
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "one"}, "data": {"a": "1"}}
    applied = await kube.apply(f"{path}/one", body, field_manager="tester")
    assert applied["metadata"]["managedFields"][0]["manager"] == "tester"
    created = await kube.create(path, {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"generateName": "two-"}})
    assert created["metadata"]["name"].startswith("two-")
    with pytest.raises(ApiError) as conflict:
        await kube.apply(f"{path}/one", body | {"data": {"a": "2"}}, field_manager="other", force=False)
    assert (conflict.value.status, conflict.value.reason) == (409, "Conflict")
