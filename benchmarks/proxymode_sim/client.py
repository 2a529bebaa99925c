"""Requests and watches of the simulated parties: each with its own token, all over one pool of connections.

Deliberately no more than the API server needs to be asked: the operator under test has its own client.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

import aiohttp

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from proxymode_testbeds.apiserver import ApiServer

Json = dict[str, Any]

NODES: Final = "/api/v1/nodes"
NODE_PROXY_MODES: Final = "/apis/proxymode.io/v1alpha1/nodeproxymodes"
PROXY_MODES: Final = "/apis/proxymode.io/v1alpha1/proxymodes"
LEASE: Final = "/apis/coordination.k8s.io/v1/namespaces/proxymode-system/leases/proxymode-operator"

APPLY: Final = "application/apply-patch+yaml"
MERGE: Final = "application/merge-patch+json"
_PATIENCE_SECONDS: Final = 60.0
_WATCH_AGAIN_SECONDS: Final = 0.1


class RequestError(Exception):
    """The API server refused."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code


class Client:
    """One API server. `token` None: its administrator."""

    def __init__(self, session: aiohttp.ClientSession, admin: str) -> None:
        self._session = session
        self._admin = admin

    @classmethod
    @asynccontextmanager
    async def connect(cls, api: ApiServer, connections: int = 64) -> AsyncIterator[Client]:
        """Open until the block ends."""
        trust = ssl.create_default_context(cafile=str(api.ca_file))
        connector = aiohttp.TCPConnector(ssl=trust, limit=connections)
        async with aiohttp.ClientSession(api.url, connector=connector) as session:
            yield cls(session, api.add_token("simulator", ["system:masters"]))

    async def request(
        self,
        method: str,
        path: str,
        body: Json | None = None,
        *,
        token: str | None = None,
        content: str = "application/json",
        **query: str,
    ) -> Json:
        """The answer. Asks again while the server is too busy (429). Raises RequestError, TimeoutError."""
        headers = {"Authorization": f"Bearer {token or self._admin}", "Content-Type": content}
        data = None if body is None else json.dumps(body).encode()
        async with asyncio.timeout(_PATIENCE_SECONDS):
            while True:
                async with self._session.request(method, path, data=data, params=query, headers=headers) as response:
                    text = await response.read()
                if response.status == 429:
                    await asyncio.sleep(0.1)
                    continue
                if response.status >= 400:
                    raise RequestError(response.status, f"{method} {path}: {text[:500].decode(errors='replace')}")
                found: Json = json.loads(text)
                return found

    async def watch(self, path: str, *, token: str | None = None) -> AsyncIterator[tuple[str, Json]]:
        """Every object that is there, as ADDED, then every event, for ever. Raises RequestError when it lags too far.

        A server ends watches as it pleases, such as after a change of a CRD; this one then goes on where it was.
        """
        listed = await self.request("GET", path, token=token)
        for item in listed["items"] or []:
            yield "ADDED", item
        version = listed["metadata"]["resourceVersion"]
        headers = {"Authorization": f"Bearer {token or self._admin}"}
        patience = aiohttp.ClientTimeout(total=None)
        while True:
            query = {"watch": "true", "resourceVersion": version, "allowWatchBookmarks": "true"}
            async with self._session.get(
                path, params=query, headers=headers, timeout=patience, read_bufsize=2**22
            ) as stream:
                async for line in stream.content:
                    event = json.loads(line)
                    if event["type"] == "ERROR":
                        raise RequestError(event["object"].get("code", 0), f"watch of {path}: {event['object']}")
                    version = event["object"]["metadata"]["resourceVersion"]
                    if event["type"] != "BOOKMARK":
                        yield event["type"], event["object"]
            await asyncio.sleep(_WATCH_AGAIN_SECONDS)
