"""The cluster of a case on a real API server: filled with objects, then changed one endpoint at a time."""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

import aiohttp

import yaml
from proxymode_benchmarks.sync import cases
from proxymode_testbeds.apiserver import ApiServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from proxymode_benchmarks.sync.cases import Case

_WRITERS: Final = 16
_PAUSES_SECONDS: Final = (1.0, 2.0, 4.0, 8.0)
_COLLECTIONS: Final = {
    "Service": "/api/v1/namespaces/{}/services",
    "EndpointSlice": "/apis/discovery.k8s.io/v1/namespaces/{}/endpointslices",
}


class Cluster:
    """A running API server with a case's objects. Made by `Cluster.of`."""

    def __init__(self, api: ApiServer, session: aiohttp.ClientSession) -> None:
        self.kubeconfig: Path = api.kubeconfig()
        self.guests_kubeconfig: Path = api.kubeconfig(server=api.guest_url)
        self._url = api.url
        self._session = session

    @classmethod
    @asynccontextmanager
    async def of(cls, case: Case, folder: Path) -> AsyncIterator[Cluster]:
        """Start an API server in the current network namespace and fill it. Raises what ApiServer.start raises."""
        async with ApiServer.start(folder) as api:
            kubeconfig = yaml.safe_load(api.kubeconfig().read_text())
            token = kubeconfig["users"][0]["user"]["token"]
            trust = ssl.create_default_context(cafile=api.ca_file)
            connector = aiohttp.TCPConnector(ssl=trust, limit=_WRITERS)
            headers = {"Authorization": f"Bearer {token}"}
            async with aiohttp.ClientSession(connector=connector, headers=headers) as session:
                cluster = cls(api, session)
                await cluster._fill(case)
                yield cluster

    async def replace(self, service: int, endpoint: int, address: str) -> float:
        """Give one endpoint of a Service another address; the time (time.monotonic) of the acknowledgement."""
        start = endpoint // cases.SLICE_ENDPOINTS * cases.SLICE_ENDPOINTS
        path = f"/endpoints/{endpoint - start}/addresses"
        patch = [{"op": "replace", "path": path, "value": [address]}]
        async with self._session.patch(
            self._url + cases.slice_path(service, start),
            data=json.dumps(patch),
            headers={"Content-Type": "application/json-patch+json"},
        ) as response:
            acknowledged = time.monotonic()
            response.raise_for_status()
            await response.read()
        return acknowledged

    async def _fill(self, case: Case) -> None:
        for namespace in cases.namespaces():
            await self._create("/api/v1/namespaces", {"metadata": {"name": namespace}})
        await self._create("/api/v1/nodes", {"metadata": {"name": cases.NODE}})
        # kube-proxy waits for its Node to have one (pkg/proxy/node.go, NewNodeManager).
        addresses = {"addresses": [{"type": "InternalIP", "address": cases.CLIENT_ADDRESS}]}
        await self._patch(f"/api/v1/nodes/{cases.NODE}/status", {"status": addresses})
        objects = case.objects()
        async with asyncio.TaskGroup() as writers:
            for _ in range(_WRITERS):
                writers.create_task(self._write(objects))

    async def _write(self, objects: Iterator[dict[str, Any]]) -> None:
        for body in objects:  # shared by the writers
            await self._create(_COLLECTIONS[body["kind"]].format(body["metadata"]["namespace"]), body)

    async def _patch(self, path: str, body: dict[str, Any]) -> None:
        headers = {"Content-Type": "application/merge-patch+json"}
        async with self._session.patch(self._url + path, data=json.dumps(body), headers=headers) as response:
            response.raise_for_status()
            await response.read()

    async def _create(self, path: str, body: dict[str, Any]) -> None:
        """Nothing is measured yet: an etcd that is too busy to answer (504) is given time."""
        for pause in (*_PAUSES_SECONDS, None):
            async with self._session.post(self._url + path, json=body) as response:
                await response.read()
                if response.status == HTTPStatus.CONFLICT:
                    return  # what was not answered was done all the same
                if response.status < HTTPStatus.INTERNAL_SERVER_ERROR or pause is None:
                    response.raise_for_status()
                    return
            await asyncio.sleep(pause)
