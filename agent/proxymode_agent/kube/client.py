"""Requests to the API server: get, create, server-side apply, pages of a list, lines of a watch.

One connection pool, credentials asked for before each request and renewed once after a 401. Deliberately no retries:
whoever calls knows what a failure means to him and how long it may take (`listwatch` does, for reading).
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import tempfile
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self

import aiohttp
import msgspec
from yarl import URL

from proxymode_agent.kube.credentials import CredentialError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping
    from types import TracebackType

    from proxymode_agent.kube.config import ClusterConfig
    from proxymode_agent.kube.credentials import ClientCertificate, Credential

REQUEST_SECONDS: Final = 30.0
"""Longest time for a whole request, and for silence within a list; a watch has its own."""
CONNECT_SECONDS: Final = 10.0
NO_ANSWER: Final = "<error>"
"""What client-go counts a request under that got no answer."""
PAGE_SIZE: Final = 500
"""Objects per page of a list (client-go's default)."""
_TIMEOUT: Final = aiohttp.ClientTimeout(total=REQUEST_SECONDS, connect=CONNECT_SECONDS)
_LIST_TIMEOUT: Final = aiohttp.ClientTimeout(total=None, connect=CONNECT_SECONDS, sock_read=REQUEST_SECONDS)


class ApiError(Exception):
    """The API server did not do what was asked: its Status, or, with status 0, why it could not be reached.

    `status` is the HTTP code, `reason` the Status' reason such as NotFound, Conflict, Expired, or ConnectionError,
    CredentialError, InvalidResponse; `retry_after` what the server asked for, in seconds.
    """

    def __init__(self, status: int, reason: str, message: str, retry_after: float | None = None) -> None:
        super().__init__(f"{reason}: {message}" if status == 0 else f"{status} {reason}: {message}")
        self.status = status
        self.reason = reason
        self.message = message
        self.retry_after = retry_after


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a list; the items undecoded, each one JSON object."""

    items: list[msgspec.Raw]
    resource_version: str
    last: bool


class _ListMeta(msgspec.Struct, rename="camel"):
    resource_version: str = ""
    continue_: str = msgspec.field(name="continue", default="")


class _List(msgspec.Struct):
    metadata: _ListMeta
    items: list[msgspec.Raw] | None = None


class Status(msgspec.Struct):
    """metav1.Status, as far as it is read."""

    code: int | None = None
    reason: str | None = None
    message: str | None = None


_LIST: Final = msgspec.json.Decoder(_List)
_STATUS: Final = msgspec.json.Decoder(Status)


class KubeClient:
    """A connection to one API server. Use as an async context manager, or call close().

    `on_answer` is called for every request with its verb and the status code, or `NO_ANSWER`.
    """

    def __init__(
        self,
        config: ClusterConfig,
        *,
        user_agent: str = "proxymode-agent",
        on_answer: Callable[[str, str], None] = lambda method, code: None,
    ) -> None:
        self._config = config
        self._user_agent = user_agent
        self._on_answer = on_answer
        self._session: aiohttp.ClientSession | None = None
        self._tls: tuple[ClientCertificate | None, ssl.SSLContext] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections; running requests end with ApiError."""
        if self._session is not None:
            await self._session.close()
            self._session = None
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

    async def pages(
        self, path: str, *, params: Mapping[str, str] | None = None, page_size: int = PAGE_SIZE
    ) -> AsyncIterator[Page]:
        """The collection at `path`, page by page, all of one resourceVersion; page_size 0: in one page.

        Raises ApiError; 410 Expired when the list took longer than the server keeps its snapshot.
        """
        query = dict(params or {})
        if page_size:
            query["limit"] = str(page_size)
        while True:
            data = await self._read("GET", path, params=query, timeout=_LIST_TIMEOUT)
            try:
                answer = _LIST.decode(data)
            except msgspec.MsgspecError as error:
                raise ApiError(0, "InvalidResponse", f"GET {path}: not a list: {error}") from error
            token = answer.metadata.continue_
            yield Page(answer.items or [], answer.metadata.resource_version, last=not token)
            if not token:
                return
            query["continue"] = token

    @asynccontextmanager
    async def lines(
        self, path: str, *, params: Mapping[str, str], idle_seconds: float
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """The answer of a watch request, line by line, for as long as the server sends. Raises ApiError, also when
        nothing at all came for `idle_seconds`."""
        timeout = aiohttp.ClientTimeout(total=None, connect=CONNECT_SECONDS, sock_read=idle_seconds)
        async with self._response("GET", path, params=params, timeout=timeout) as response:
            try:
                yield _lines(response, f"GET {path}")
            finally:
                # A watch that is left in the middle has nothing to say good-bye for: no TLS shutdown that outlives us.
                if response.connection is not None and response.connection.transport is not None:
                    response.connection.transport.abort()

    async def _read(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
        content_type: str | None = None,
        timeout: aiohttp.ClientTimeout = _TIMEOUT,  # noqa: ASYNC109 - aiohttp's own, several clocks in one
    ) -> bytearray:
        data = None if body is None else msgspec.json.encode(body)
        async with self._response(
            method, path, params=params, data=data, content_type=content_type, timeout=timeout
        ) as response:
            # Not response.read(), which has the whole twice for a moment: a list may be 100 MB.
            answer = bytearray()
            async for chunk in response.content.iter_any():
                answer += chunk
            return answer

    @asynccontextmanager
    async def _response(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None,
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109 - aiohttp's own, several clocks in one
        data: bytes | None = None,
        content_type: str | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """An answer with a 2xx status; every other outcome is an ApiError."""
        url = URL(self._config.server.rstrip("/") + path)
        answered = False
        try:
            for attempt in (1, 2):
                credential = await self._config.credentials.current()
                async with self._open().request(
                    method,
                    url,
                    params=params,
                    data=data,
                    headers=_headers(credential, content_type),
                    ssl=self._ssl(credential.certificate),
                    server_hostname=self._config.tls_server_name,
                    timeout=timeout,
                    allow_redirects=False,
                ) as response:
                    answered = True
                    self._on_answer(method, str(response.status))
                    if response.status == 401 and attempt == 1:
                        self._config.credentials.invalidate()
                        continue
                    if not 200 <= response.status < 300:
                        raise await _error(response, f"{method} {path}")
                    yield response
                    return
        except CredentialError as error:
            raise ApiError(0, "CredentialError", str(error)) from error
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            if not answered:
                self._on_answer(method, NO_ANSWER)
            reason = str(error) or type(error).__name__
            raise ApiError(0, "ConnectionError", f"{method} {url.origin()}{path}: {reason}") from error

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, socket_factory=_keepalive_socket),
                headers={"User-Agent": self._user_agent, "Accept": "application/json"},
            )
        return self._session

    def _ssl(self, certificate: ClientCertificate | None) -> ssl.SSLContext | bool:
        if not self._config.server.startswith("https://"):
            return True
        if self._tls is None or self._tls[0] != certificate:
            self._tls = (certificate, _ssl_context(self._config, certificate))
        return self._tls[1]


def _headers(credential: Credential, content_type: str | None) -> dict[str, str]:
    headers = {}
    if credential.token is not None:
        headers["Authorization"] = f"Bearer {credential.token}"
    if content_type is not None:
        headers["Content-Type"] = content_type
    return headers


def _ssl_context(config: ClusterConfig, certificate: ClientCertificate | None) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if config.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif config.ca_data is not None:
        context = ssl.create_default_context(cadata=config.ca_data.decode("ascii"))
    if certificate is not None:
        # OpenSSL's interface takes the chain from a file only; it is gone as soon as it is read.
        with tempfile.NamedTemporaryFile(suffix=".pem") as file:
            file.write(certificate.certificate.rstrip() + b"\n" + certificate.key)
            file.flush()
            try:
                context.load_cert_chain(file.name)
            except ssl.SSLError as error:
                raise CredentialError(f"client certificate and key do not load: {error}") from error
    return context


def _keepalive_socket(
    address: tuple[int | socket.AddressFamily, int | socket.SocketKind, int, str, tuple[Any, ...]],
) -> socket.socket:
    """A TCP socket that notices a peer that vanished: a watch may rightly be silent for minutes, a dead one must not.

    After 30 s of silence a probe every 10 s, three unanswered end it; unacknowledged data ends it after 30 s.
    """
    sock = socket.socket(address[0], address[1], address[2])
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 30)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 30_000)
    return sock


def _object(data: bytearray) -> dict[str, Any]:
    try:
        value = msgspec.json.decode(data, type=dict[str, Any])
    except msgspec.MsgspecError as error:
        raise ApiError(0, "InvalidResponse", f"not a JSON object: {error}") from error
    return value


async def _error(response: aiohttp.ClientResponse, request: str) -> ApiError:
    body = await response.content.read(65536)
    retry_after: float | None = None
    if (header := response.headers.get("Retry-After", "")).isdigit():
        retry_after = float(header)
    try:
        status = _STATUS.decode(body)
    except msgspec.MsgspecError:
        status = Status(message=body.decode(errors="replace").strip()[:500])
    return ApiError(
        response.status,
        status.reason or response.reason or "Unknown",
        f"{request}: {status.message or 'no message'}",
        retry_after,
    )


async def _lines(response: aiohttp.ClientResponse, request: str) -> AsyncIterator[bytes]:
    """The body's lines. A line may be far longer than StreamReader.readline takes (an EndpointSlice of a thousand
    endpoints has 200 KB)."""
    rest = bytearray()
    async for chunk in response.content.iter_any():
        if b"\n" not in chunk:
            rest += chunk
            continue
        lines = (bytes(rest) + chunk).split(b"\n")
        rest = bytearray(lines.pop())
        for line in lines:
            if line.strip():
                yield line
    if rest.strip():
        raise ApiError(0, "InvalidResponse", f"{request}: the answer ended in the middle of a line")
