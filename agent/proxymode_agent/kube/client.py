"""Requests to the API server: get, create, server-side apply, pages of a list, lines of a watch.

One pool of connections, credentials asked for before each request and renewed once after a 401. Deliberately no
retries: whoever calls knows what a failure means to him and how long it may take (`listwatch` does, for reading).
"""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager, suppress
from ssl import SSLCertVerificationError
from typing import TYPE_CHECKING, Any, Final, Generic, Self, TypeVar
from urllib.parse import urlencode

import msgspec

from proxymode_agent.http1.pool import Clocks, Pool
from proxymode_agent.kube import errors
from proxymode_agent.kube.credentials import CredentialError
from proxymode_agent.kube.errors import ApiError
from proxymode_agent.kube.listing import ListDecoder
from proxymode_agent.kube.tls import Tls

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping
    from types import TracebackType

    from proxymode_agent.http1.pool import Response
    from proxymode_agent.kube.cluster import ClusterConfig
    from proxymode_agent.kube.credentials import Credential

I = TypeVar("I")  # noqa: E741 - an item of a list

REQUEST_SECONDS: Final = 30.0
"""Longest time for a whole request, and for silence within a list; a watch has its own."""
CONNECT_SECONDS: Final = 10.0
NO_ANSWER: Final = "<error>"
"""What client-go counts a request under that got no answer."""
PAGE_SIZE: Final = 500
"""Objects per page of a list (client-go's default)."""
_ERROR_BYTES: Final = 1 << 16
"""What is read of an answer that is an error."""


class Page(msgspec.Struct, Generic[I], frozen=True):
    """A piece of a list, as it comes. The last piece of what was asked for has the resourceVersion, the others have
    none; `last`: nothing follows."""

    items: list[I]
    resource_version: str = ""
    last: bool = False


class KubeClient:
    """A connection to one API server. Use as an async context manager, or call close().

    `on_answer` is called for every request with its verb, the status code or `NO_ANSWER`, and the seconds until then.
    """

    def __init__(
        self,
        config: ClusterConfig,
        *,
        user_agent: str = "proxymode-agent",
        on_answer: Callable[[str, str, float], None] = lambda method, code, seconds: None,
    ) -> None:
        self._config = config
        self._user_agent = user_agent
        self.on_answer = on_answer
        self._pool = Pool(config.server, config.tls_server_name)
        self._tls = Tls(config)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def host(self) -> str:
        """Whom it talks to: host, and port where the server's URL names one."""
        return self._pool.host

    async def close(self) -> None:
        """Close all connections; running requests end with ApiError."""
        self._pool.close()
        await asyncio.sleep(0)  # sockets that were aborted are closed in the loop's next round

    async def get(self, path: str, *, params: Mapping[str, str] | None = None) -> dict[str, Any]:
        """The JSON object at `path`, such as `/version` or `/api/v1/nodes/n1`. Raises ApiError."""
        return _object(await self._read("GET", path, params=params))

    async def create(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """POST `body` to the collection at `path`; the object as stored. Raises ApiError."""
        return _object(await self._read("POST", path, body=body, content_type="application/json"))

    async def apply(
        self,
        path: str,
        body: Mapping[str, Any],
        *,
        field_manager: str,
        force: bool = True,
        subresource: str | None = None,
    ) -> dict[str, Any]:
        """Server-side apply of `body` (apiVersion, kind and metadata.name included) to the object at `path`; the
        object as stored. `subresource`: such as `status`. Raises ApiError."""
        return _object(
            await self._read(
                "PATCH",
                f"{path}/{subresource}" if subresource else path,
                params={"fieldManager": field_manager, "force": "true" if force else "false"},
                body=body,
                content_type="application/apply-patch+yaml",  # JSON is YAML
            )
        )

    async def ahead(self, path: str, params: Mapping[str, str]) -> None:
        """Ask now for a list that somebody will ask `pages` for, all in one page, in a moment. Does not fail: whoever
        asks then is told what is wrong."""
        with suppress(CredentialError, OSError):
            credential = await self._config.credentials.current()
            await self._pool.ahead(
                _target(path, params),
                self._headers(credential, None),
                tls=self._tls.context(credential.certificate),
                clocks=Clocks(CONNECT_SECONDS, REQUEST_SECONDS),
            )

    async def pages(
        self,
        path: str,
        items: Callable[[memoryview], list[I]],
        *,
        params: Mapping[str, str] | None = None,
        page_size: int = PAGE_SIZE,
    ) -> AsyncIterator[Page[I]]:
        """The collection at `path`, page by page, all of one resourceVersion; page_size 0: in one page. `items` reads
        them, as ListDecoder has it.

        Raises ApiError; 410 Expired when the list took longer than the server keeps its snapshot.
        """
        query = dict(params or {})
        if page_size:
            query["limit"] = str(page_size)
        while True:
            decoder = ListDecoder(items)
            try:
                async with self._response("GET", path, params=query, idle_seconds=REQUEST_SECONDS) as response:
                    async for piece in response.chunks:
                        if found := decoder.feed(piece):
                            yield Page(found)
                found, meta = decoder.finish()
            except msgspec.MsgspecError as error:
                raise ApiError(0, "InvalidResponse", f"GET {path}: not a list: {error}") from error
            yield Page(found, meta.resource_version, last=not meta.continue_)
            if not meta.continue_:
                return
            query["continue"] = meta.continue_

    @asynccontextmanager
    async def lines(
        self, path: str, *, params: Mapping[str, str], idle_seconds: float
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """The answer of a watch request, line by line, for as long as the server sends. Raises ApiError, also when
        nothing at all came for `idle_seconds`."""
        async with self._response("GET", path, params=params, idle_seconds=idle_seconds) as response:
            yield _lines(response.chunks, f"GET {path}")

    async def _read(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
        content_type: str | None = None,
    ) -> bytearray:
        data = b"" if body is None else msgspec.json.encode(body)
        answer = bytearray()
        async with self._response(
            method, path, params=params, data=data, content_type=content_type, total_seconds=REQUEST_SECONDS
        ) as response:
            async for piece in response.chunks:
                answer += piece
        return answer

    @asynccontextmanager
    async def _response(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None,
        data: bytes = b"",
        content_type: str | None = None,
        idle_seconds: float = REQUEST_SECONDS,
        total_seconds: float | None = None,
    ) -> AsyncIterator[Response]:
        """An answer with a 2xx status; every other outcome is an ApiError."""
        target = _target(path, params)
        answered = False
        began = time.monotonic()
        try:
            for attempt in (1, 2):
                credential = await self._config.credentials.current()
                async with (
                    asyncio.timeout(total_seconds),
                    self._pool.request(
                        method,
                        target,
                        self._headers(credential, content_type),
                        body=data,
                        tls=self._tls.context(credential.certificate),
                        clocks=Clocks(CONNECT_SECONDS, idle_seconds),
                    ) as response,
                ):
                    answered = True
                    self.on_answer(method, str(response.head.status), time.monotonic() - began)
                    if response.head.status == 401 and attempt == 1:
                        self._config.credentials.invalidate()
                        answered, began = False, time.monotonic()
                        continue
                    if not 200 <= response.head.status < 300:
                        raise await _error(response, f"{method} {path}")
                    yield response
                    return
        except CredentialError as error:
            raise ApiError(0, "CredentialError", str(error)) from error
        except OSError as error:  # TimeoutError is one
            if isinstance(error, SSLCertVerificationError):
                self._tls.distrusted()
            if not answered:
                self.on_answer(method, NO_ANSWER, time.monotonic() - began)
            reason = str(error) or type(error).__name__
            raise ApiError(0, "ConnectionError", f"{method} {self._pool.origin}{path}: {reason}") from error

    def _headers(self, credential: Credential, content_type: str | None) -> dict[str, str]:
        # No compression: to pack a list takes the API server longer than a network of today to carry it.
        headers = {"User-Agent": self._user_agent, "Accept": "application/json"}
        if credential.token is not None:
            headers["Authorization"] = f"Bearer {credential.token}"
        if content_type is not None:
            headers["Content-Type"] = content_type
        return headers


def _target(path: str, params: Mapping[str, str] | None) -> str:
    return f"{path}?{urlencode(params)}" if params else path


def _object(data: bytearray) -> dict[str, Any]:
    try:
        value = msgspec.json.decode(data, type=dict[str, Any])
    except msgspec.MsgspecError as error:
        raise ApiError(0, "InvalidResponse", f"not a JSON object: {error}") from error
    return value


async def _error(response: Response, request: str) -> ApiError:
    body = bytearray()
    async for piece in response.chunks:
        body += piece
        if len(body) > _ERROR_BYTES:
            break
    return errors.of_answer(response.head, body, request)


async def _lines(chunks: AsyncIterator[bytearray], request: str) -> AsyncIterator[bytes]:
    """The body's lines. One may be long: an EndpointSlice of a thousand endpoints has 200 KB."""
    rest = bytearray()
    async for chunk in chunks:
        rest += chunk
        if b"\n" not in chunk:
            continue
        lines = bytes(rest).split(b"\n")
        rest = bytearray(lines.pop())
        for line in lines:
            if line.strip():
                yield line
    if rest.strip():
        raise ApiError(0, "InvalidResponse", f"{request}: the answer ended in the middle of a line")
