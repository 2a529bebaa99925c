"""Tests on the API surface: what an API server says to our CRDs, policies and manifests, and to clients of them.

`api` is a bare server for the whole session, so give objects names of your own and remove what others could trip over;
`crds` is the same server with our CRDs; `manifests` is another one, with everything that users install; `empty_api` is
a server for one test alone (a second or two). With KUBEBUILDER_ASSETS set they are real kube-apiservers.
"""

from __future__ import annotations

import json
import os
import ssl
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp
import pytest
import pytest_asyncio

from node_bed import OUR_CRDS, ROOT
from proxymode_testbeds.apiserver import ApiServer, KubectlError
from proxymode_testbeds.polling import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.api)


def pytest_report_collectionfinish() -> list[str]:
    assets = os.environ.get("KUBEBUILDER_ASSETS")
    return [f"API server: {f'the real one in {assets}' if assets else 'our own, built from Kubernetes libraries'}"]


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def api(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ApiServer]:
    async with ApiServer.start(tmp_path_factory.mktemp("api")) as server:
        yield server


@pytest.fixture
async def empty_api(tmp_path: Path) -> AsyncIterator[ApiServer]:
    async with ApiServer.start(tmp_path / "api") as server:
        yield server


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def crds(api: ApiServer) -> ApiServer:
    await api.kubectl("apply", f"--filename={ROOT / 'crds'}")
    await api.served(*OUR_CRDS)
    return api


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def manifests(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ApiServer]:
    """`kubectl apply -k manifests/` and both admission policies in force."""
    async with ApiServer.start(tmp_path_factory.mktemp("manifests")) as server:
        await server.kubectl("apply", f"--kustomize={ROOT / 'manifests'}")
        await server.served(*OUR_CRDS)
        # In a group that no authorizer stops, so that what refuses is the policy.
        server.add_token("system:serviceaccount:proxymode-system:proxymode-agent", ["system:masters"])
        await eventually(lambda: _warns_of_ipvs(server), "a warning of ipvs at apply")
        await eventually(lambda: _refuses_an_unbound_agent(server), "a refusal of an agent bound to no node")
        yield server


@pytest.fixture
async def namespace(api: ApiServer) -> AsyncIterator[str]:
    """A namespace of this test's own; what is in it stays behind, for nobody to find."""
    name = f"test-{uuid.uuid4().hex[:12]}"
    await api.kubectl("create", "namespace", name)
    yield name
    await api.kubectl("delete", "namespace", name, "--wait=false")


@pytest.fixture
async def http(api: ApiServer) -> AsyncIterator[aiohttp.ClientSession]:
    """A client of `api` as its administrator, for what kubectl hides."""
    trust = aiohttp.TCPConnector(ssl=ssl.create_default_context(cafile=str(api.ca_file)))
    headers = {"Authorization": f"Bearer {api.add_token('http', ['system:masters'])}"}
    async with aiohttp.ClientSession(api.url, connector=trust, headers=headers) as session:
        yield session


def _probe(kind: str) -> str:
    body = {
        "apiVersion": "proxymode.io/v1alpha1",
        "kind": kind,
        "metadata": {"name": "probe"},
        "spec": {"mode": "ipvs"},
    }
    return json.dumps(body)


async def _warns_of_ipvs(server: ApiServer) -> bool:
    created = await server.kubectl("create", "--dry-run=server", "--filename=-", stdin=_probe("ProxyMode"))
    return "deprecated" in created.stderr


async def _refuses_an_unbound_agent(server: ApiServer) -> bool:
    agent = "system:serviceaccount:proxymode-system:proxymode-agent"
    try:
        await server.kubectl("create", "--dry-run=server", "--filename=-", stdin=_probe("NodeProxyMode"), user=agent)
    except KubectlError:
        return True
    return False
