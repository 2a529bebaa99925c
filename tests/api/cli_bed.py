"""What tests of the plugin share: a fleet in mid-rollout, the plugin as a person types it, a quick writer."""

from __future__ import annotations

import asyncio
import io
import ssl
import sys
from contextlib import asynccontextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from proxymode_cli.main import main

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from proxymode_testbeds.apiserver import ApiServer

BIN = Path(sys.executable).parent
PROXY_MODES = "/apis/proxymode.io/v1alpha1/proxymodes"
FLEET = f"{PROXY_MODES}/fleet"
NODE_PROXY_MODES = "/apis/proxymode.io/v1alpha1/nodeproxymodes"
DEADLINE_SECONDS = 180.0
NODES = ("cli-1", "cli-2", "cli-3")

PROXY_MODE: dict[str, Any] = {
    "apiVersion": "proxymode.io/v1alpha1",
    "kind": "ProxyMode",
    "metadata": {"name": "fleet"},
    "spec": {
        "mode": "nftables",
        "rollout": {
            "stages": [{"name": "canary", "count": 1}, {"name": "all", "percent": 100, "approval": "Manual"}],
        },
    },
}
STATUS: dict[str, Any] = {
    "observedGeneration": 1,
    "revision": 3,
    "mode": "nftables",
    "fromMode": "ipvs",
    "status": "AwaitingApproval",
    "currentStage": "all",
    "startedAt": "2026-11-21T10:00:00Z",
    "stages": [
        {"name": "canary", "phase": "Complete", "nodes": 1, "updated": 1, "approved": True},
        {"name": "all", "phase": "AwaitingApproval", "nodes": 2, "blocked": 1},
    ],
    "nodes": {"desired": 3, "updated": 1, "ready": 3, "pending": 1, "blocked": 1, "progress": "1/3"},
}
BLOCK = {
    "id": "kernel-version",
    "verdict": "block",
    "found": "Linux 5.10.0; nftables mode needs 5.13 or newer",
    "remedy": "Upgrade the node's kernel.",
}
BLOCKED = {"mode": "nftables", "checkedAt": "2026-11-21T10:00:00Z", "results": [BLOCK]}


class Ran:
    """What a command printed, and its exit code."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err
        self.lines = [" ".join(line.split()) for line in out.splitlines()]


def run(*arguments: str) -> Ran:
    """The plugin's main in this process: starting Python for each of so many commands takes minutes."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as end:
        main(arguments)
    return Ran(int(end.value.code or 0), out.getvalue(), err.getvalue())


async def plugin(api: ApiServer, *arguments: str) -> Ran:
    """The plugin with the administrator's kubeconfig, unless the arguments name another."""
    if "--kubeconfig" not in arguments:
        arguments = (*arguments, "--kubeconfig", str(api.kubeconfig()))
    return await asyncio.to_thread(run, *arguments)


async def process(api: ApiServer, command: str) -> tuple[int, str, str]:
    """A shell command in which `kubectl-proxymode` is the installed one."""
    started = await asyncio.create_subprocess_exec(
        *("/bin/bash", "-c", command),
        env={"PATH": f"{BIN}:/usr/bin:/bin", "KUBECONFIG": str(api.kubeconfig())},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(DEADLINE_SECONDS):
        out, err = await started.communicate()
    assert started.returncode is not None
    return started.returncode, out.decode(), err.decode()


class Store:
    """Writes to the API server without kubectl, which costs a process for each object."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def create(self, path: str, body: dict[str, Any], status: dict[str, Any] | None = None) -> None:
        async with self._session.post(path, json=body) as response:
            assert response.status == 201, await response.text()
        if status is not None:
            await self.set_status(f"{path}/{body['metadata']['name']}", status)

    async def set_status(self, path: str, status: dict[str, Any]) -> None:
        headers = {"Content-Type": "application/merge-patch+json"}
        async with self._session.patch(f"{path}/status", json={"status": status}, headers=headers) as response:
            assert response.status == 200, await response.text()

    async def delete(self, path: str) -> None:
        async with self._session.delete(path) as response:
            assert response.status in (200, 404), await response.text()

    async def get(self, path: str) -> dict[str, Any]:
        async with self._session.get(path) as response:
            found: dict[str, Any] = await response.json()
            return found


def node_status(mode: str, **more: Any) -> dict[str, Any]:
    return {
        "observedGeneration": 1,
        "mode": mode,
        "phase": "Active",
        "heartbeatTime": "2999-01-01T00:00:00Z",
        "agentVersion": "0.1.0",
        "deprecated": "1.43" if mode == "ipvs" else "",
        "conditions": [
            {
                "type": "Ready",
                "status": "True",
                "reason": "Programmed",
                "message": "",
                "lastTransitionTime": "2026-11-21T10:00:00Z",
            }
        ],
        "preflight": {"mode": "nftables", "checkedAt": "2026-11-21T10:00:00Z", "results": []},
        **more,
    }


@asynccontextmanager
async def store_of(manifests: ApiServer) -> AsyncIterator[Store]:
    """A writer with all rights."""
    trust = aiohttp.TCPConnector(ssl=ssl.create_default_context(cafile=str(manifests.ca_file)))
    headers = {"Authorization": f"Bearer {manifests.add_token('cli-store', ['system:masters'])}"}
    async with aiohttp.ClientSession(manifests.url, connector=trust, headers=headers) as session:
        yield Store(session)


@asynccontextmanager
async def fleet_of(manifests: ApiServer, store: Store) -> AsyncIterator[ApiServer]:
    """Three nodes in the middle of a rollout: one over, one blocked, one waiting; a second stage waits for approval."""
    told = {"proxyMode": "fleet", "revision": 3, "targetMode": "nftables", "stage": "canary"}
    waiting = told | {"revision": 2, "stage": "all"}
    nodes = (
        (told, node_status("nftables")),
        (waiting, node_status("ipvs", phase="Blocked", preflight=BLOCKED)),
        (waiting, node_status("ipvs")),
    )
    for left_by_others in (PROXY_MODES, NODE_PROXY_MODES, "/api/v1/nodes"):
        await store.delete(left_by_others)
    try:
        await store.create(PROXY_MODES, PROXY_MODE, STATUS)
        for name, (spec, status) in zip(NODES, nodes, strict=True):
            await store.create("/api/v1/nodes", {"metadata": {"name": name}})
            await store.create(
                NODE_PROXY_MODES,
                {
                    "apiVersion": "proxymode.io/v1alpha1",
                    "kind": "NodeProxyMode",
                    "metadata": {"name": name},
                    "spec": spec | {"mode": status["mode"]},
                },
                status,
            )
        yield manifests
    finally:
        await store.delete(PROXY_MODES)
        for name in NODES:
            await store.delete(f"{NODE_PROXY_MODES}/{name}")
            await store.delete(f"/api/v1/nodes/{name}")
