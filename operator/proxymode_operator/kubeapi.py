"""Requests to the API server: the few that the operator makes, each with a time-out, counted, and fenced.

Solves: server-side apply as fieldManager `proxymode-operator`, lists of metadata alone, Events, and one kind of error.
Built on the transport of `kubernetes.aio` (TLS, kubeconfig, rotating tokens); its model classes stay unused, since
objects travel as JSON. Every write asks the fence first: a replica that lost its Lease writes nothing more.
Deliberately retries nothing: the queue does, and who watches.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import socket
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol, Self

import aiohttp
import msgspec
from kubernetes.aio import client as k8s

from proxymode_api import API_VERSION, GROUP, VERSION
from proxymode_api.notes import event_name, note
from proxymode_operator.metrics import REQUESTS
from proxymode_operator.shapes import IdentityShape, ListShape, RefusalShape, read
from proxymode_operator.stream import chunks, lines

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence

    from proxymode_operator.rollout.model import Notice
    from proxymode_operator.shapes import Json, Received

FIELD_MANAGER: Final = "proxymode-operator"
TIMEOUT_SECONDS: Final = 30.0
PAGE: Final = 500
WATCH_SECONDS: Final = 300.0
"""A watch is ended by the API server after this to twice this."""
SILENCE_SECONDS: Final = 90.0
"""A watch that brings nothing for so long is begun anew: a load balancer or a firewall on the way may have forgotten it
and told nobody. API servers send a bookmark every minute, where there is nothing else to say."""
_METADATA_ONLY: Final = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"


class Kind(StrEnum):
    """What the operator watches."""

    NODE = "Node"
    NODE_PROXY_MODE = "NodeProxyMode"
    PROXY_MODE = "ProxyMode"


PATHS: Final = {
    Kind.NODE: "/api/v1/nodes",
    Kind.NODE_PROXY_MODE: f"/apis/{GROUP}/{VERSION}/nodeproxymodes",
    Kind.PROXY_MODE: f"/apis/{GROUP}/{VERSION}/proxymodes",
}


class ApiError(Exception):
    """The API server refused, or did not answer (code 0). `reason` is metav1.Status.reason."""

    def __init__(self, code: int, reason: str, message: str) -> None:
        super().__init__(f"{code} {reason}: {message}")
        self.code = code
        self.reason = reason


class ListedObject(NamedTuple):
    """An object's identity in a list."""

    name: str
    uid: str
    resource_version: int


class Page(NamedTuple):
    """Some of a list's objects, and the version of the whole list."""

    items: Sequence[Received]
    resource_version: str


def identity(raw: Received) -> ListedObject:
    """Of an object with its metadata."""
    meta = read(IdentityShape, raw).metadata
    return ListedObject(meta.name, meta.uid, int(meta.resource_version))


class Fence(Protocol):
    """Who may say that this replica must not write."""

    def check(self) -> None:
        """Raises NotLeaderError when writes are not allowed now."""


class NotLeaderError(Exception):
    """A write was asked for without holding the Lease."""


class Open:
    """The fence of an operator that runs alone."""

    def check(self) -> None:
        return


class KubeApi:
    """An open connection pool to one API server. Use as an async context manager."""

    def __init__(self, configuration: k8s.Configuration) -> None:
        self._client = k8s.ApiClient(configuration)
        self.fence: Fence = Open()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.close()  # type: ignore[no-untyped-call]

    async def get(self, path: str, **query: str) -> Json:
        """One object."""
        return _object(await self._request("GET", path, query), "GET", path)

    async def list_metadata(self, kind: Kind) -> AsyncIterator[ListedObject]:
        """Every object's identity, page by page, without its body."""
        async for page in self.list_pages(kind, accept=_METADATA_ONLY):
            for item in page.items:
                yield identity(item)

    async def list_pages(self, kind: Kind, *, accept: str = "application/json") -> AsyncIterator[Page]:
        """Every object, page by page."""
        query = {"limit": str(PAGE)}
        while True:
            text = await self._request("GET", PATHS[kind], query, accept=accept)
            try:
                page = read(ListShape, text)
            except msgspec.MsgspecError as error:
                raise ApiError(0, "NotAList", f"GET {PATHS[kind]}: {error}") from error
            yield Page(page.items or (), page.metadata.resource_version)
            if not page.metadata.continue_:
                return
            query["continue"] = page.metadata.continue_

    async def watch(
        self, kind: Kind, version: str, pause: Callable[[], Awaitable[None]]
    ) -> AsyncIterator[tuple[str, Received]]:
        """Type and object of every event since this version, bookmarks included, until the API server ends the watch,
        which it is asked to do after some minutes. After each `pause` what has come meanwhile is read in one go. Raises
        ApiError; code 410: the version is too old."""
        seconds = WATCH_SECONDS * random.uniform(1, 2)  # not all watches of all replicas at one time
        query = {
            "watch": "true",
            "resourceVersion": version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(round(seconds)),
        }
        request = await self._serialized("GET", PATHS[kind], query)
        patience = aiohttp.ClientTimeout(
            total=seconds + TIMEOUT_SECONDS, sock_connect=TIMEOUT_SECONDS, sock_read=SILENCE_SECONDS
        )
        try:
            answer = await self._client.call_api(*request, _request_timeout=patience)
            REQUESTS.labels("GET", str(answer.status)).inc()
            async with answer.response as response:
                if response.status >= 400:
                    raise _refusal(response.status, "watch", PATHS[kind], await response.read(), response.reason)
                async for event in lines(chunks(response, pause)):
                    if event.type == "ERROR":
                        status = read(RefusalShape, event.object)
                        raise ApiError(status.code, status.reason, f"watch {PATHS[kind]}")
                    yield event.type, event.object
        except (aiohttp.ClientError, OSError, TimeoutError, msgspec.MsgspecError) as error:
            raise ApiError(0, type(error).__name__, f"watch {PATHS[kind]}: {error}") from error

    async def apply(self, kind: Kind, name: str, body: Json, *, subresource: str = "") -> Received:
        """Server-side apply of everything we own in the object; takes over what others wrote in those fields."""
        self.fence.check()
        path = f"{PATHS[kind]}/{name}" + (f"/{subresource}" if subresource else "")
        query = {"fieldManager": FIELD_MANAGER, "force": "true"}
        text = await self._request("PATCH", path, query, body, content_type="application/apply-patch+yaml")
        return msgspec.Raw(text)

    async def apply_at(self, path: str, body: Json, *, manager: str) -> Json:
        """Server-side apply to the object at `path`, which is nobody's of ours, as a field manager of its own."""
        self.fence.check()
        query = {"fieldManager": manager, "force": "true"}
        text = await self._request("PATCH", path, query, body, content_type="application/apply-patch+yaml")
        return _object(text, "PATCH", path)

    async def merge(self, kind: Kind, name: str, body: Json, *, manager: str) -> Received:
        """A merge patch (RFC 7386); null takes a field away, whoever wrote it."""
        self.fence.check()
        query = {"fieldManager": manager}
        path = f"{PATHS[kind]}/{name}"
        text = await self._request("PATCH", path, query, body, content_type="application/merge-patch+json")
        return msgspec.Raw(text)

    async def remove_annotation(self, kind: Kind, name: str, annotation: str, uid: str) -> Received:
        """Removes one annotation of the object with this uid."""
        body = {"metadata": {"uid": uid, "annotations": {annotation: None}}}
        return await self.merge(kind, name, body, manager=FIELD_MANAGER)

    async def create(self, path: str, body: Json, *, fenced: bool = True) -> Json:
        """Creates an object; Leases are not `fenced`, they are the fence."""
        if fenced:
            self.fence.check()
        return _object(await self._request("POST", path, {"fieldManager": FIELD_MANAGER}, body), "POST", path)

    async def replace(self, path: str, body: Json) -> Json:
        """Replaces an object, if it is still the version in `body`. Only for Leases."""
        return _object(await self._request("PUT", path, {"fieldManager": FIELD_MANAGER}, body), "PUT", path)

    async def post_notice(self, proxy_mode: str, uid: str, notice: Notice) -> None:
        """An Event about a ProxyMode (events.k8s.io/v1). Events about cluster-scoped objects live in `default`."""
        regarding = {"apiVersion": API_VERSION, "kind": Kind.PROXY_MODE.value, "name": proxy_mode}
        body = {
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": {"name": event_name(proxy_mode, os.urandom(8).hex()), "namespace": "default"},
            "eventTime": micro_time(datetime.now(UTC)),
            "reportingController": f"{GROUP}/operator",
            "reportingInstance": socket.gethostname(),
            "regarding": regarding | ({"uid": uid} if uid else {}),
            "type": notice.type.value,
            "reason": notice.reason,
            "action": notice.action,
            "note": note(notice.note),
        }
        await self.create("/apis/events.k8s.io/v1/namespaces/default/events", body)

    async def _request(
        self,
        method: str,
        path: str,
        query: Mapping[str, str],
        body: Json | None = None,
        *,
        content_type: str = "application/json",
        accept: str = "application/json",
    ) -> bytes:
        request = await self._serialized(method, path, query, body, content_type=content_type, accept=accept)
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                response = await self._client.call_api(*request)
                text: bytes = await response.read()  # type: ignore[no-untyped-call]
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            REQUESTS.labels(method, "0").inc()
            raise ApiError(0, type(error).__name__, f"{method} {path}: {error}") from error
        REQUESTS.labels(method, str(response.status)).inc()
        if response.status >= 400:
            raise _refusal(response.status, method, path, text, response.reason)
        return text

    async def _serialized(
        self,
        method: str,
        path: str,
        query: Mapping[str, str],
        body: Json | None = None,
        *,
        content_type: str = "application/json",
        accept: str = "application/json",
    ) -> tuple[Any, Any, Any, Any, Any]:
        """The arguments of `call_api`; a token that has run out is read again here."""
        found: tuple[Any, Any, Any, Any, Any] = await self._client.param_serialize(
            method,
            path,
            query_params=list(query.items()),
            header_params={"Accept": accept, "Content-Type": content_type},
            body=body,
            auth_settings=["BearerToken"],
        )
        return found


def micro_time(when: datetime) -> str:
    """metav1.MicroTime."""
    return when.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _refusal(code: int, method: str, path: str, text: bytes, reason: str | None) -> ApiError:
    answer = _decoded(text) or {}
    message = f"{method} {path}: {answer.get('message') or text[:200]!r}"
    return ApiError(code, str(answer.get("reason") or reason), message)


def _object(text: bytes, method: str, path: str) -> Json:
    """Raises ApiError where a proxy on the way has answered in the API server's place."""
    answer = _decoded(text)
    if answer is None:
        raise ApiError(0, "NotAnObject", f"{method} {path}: {text[:200]!r}")
    return answer


def _decoded(text: bytes) -> Json | None:
    """None where it is no JSON object."""
    try:
        answer = json.loads(text)
    except ValueError:
        return None
    return answer if isinstance(answer, dict) else None
