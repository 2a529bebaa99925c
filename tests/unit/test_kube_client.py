"""KubeClient: what goes over the wire, and what every way to fail becomes."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web

from fake_api import fake_api, listed, obj, status, vanished
from proxymode_agent.kube.client import KubeClient
from proxymode_agent.kube.cluster import ClusterConfig
from proxymode_agent.kube.credentials import ClientCertificate, Credential, CredentialError, StaticCredentials
from proxymode_agent.kube.errors import ApiError
from proxymode_agent.kube.listing import raw_items

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from fake_api import FakeApi


@dataclass
class Tokens:
    """Credentials that hand out the next token after each refusal."""

    tokens: list[str] = field(default_factory=lambda: ["old", "new", "newest"])

    async def current(self) -> Credential:
        return Credential(self.tokens[0])

    def invalidate(self) -> None:
        self.tokens.pop(0)


class NoCredentials:
    async def current(self) -> Credential:
        raise CredentialError("exec plugin x ended with status 1")

    def invalidate(self) -> None: ...


def client(
    api: FakeApi,
    credentials: Any = None,
    on_answer: Callable[[str, str, float], None] = lambda method, code, seconds: None,
) -> KubeClient:
    return KubeClient(
        ClusterConfig(server=api.url, credentials=credentials or StaticCredentials(Credential("secret"))),
        user_agent="agent/1",
        on_answer=on_answer,
    )


def echo() -> Callable[[web.Request], Awaitable[web.Response]]:
    """Answers with what it was sent."""

    async def answer(request: web.Request) -> web.Response:
        return web.json_response(
            {
                "method": request.method,
                "path": request.path_qs,
                "type": request.headers.get("Content-Type"),
                "body": json.loads(await request.read() or "null"),
            }
        )

    return answer


async def test_get() -> None:
    async with fake_api(echo()) as api, client(api) as kube:
        answer = await kube.get("/api/v1/nodes/n1", params={"a": "b c"})
        assert answer["method"] == "GET"
        assert answer["path"] == "/api/v1/nodes/n1?a=b+c"
        assert api.headers[0]["Authorization"] == "Bearer secret"
        assert api.headers[0]["User-Agent"] == "agent/1"


async def test_create() -> None:
    async with fake_api(echo()) as api, client(api) as kube:
        answer = await kube.create("/api/v1/namespaces/default/events", {"kind": "Event"})
        assert answer == {
            "method": "POST",
            "path": "/api/v1/namespaces/default/events",
            "type": "application/json",
            "body": {"kind": "Event"},
        }


async def test_apply_is_server_side_apply() -> None:
    async with fake_api(echo(), echo()) as api, client(api) as kube:
        answer = await kube.apply("/apis/x/v1/ys/z", {"kind": "Y"}, field_manager="me", subresource="status")
        assert answer == {
            "method": "PATCH",
            "path": "/apis/x/v1/ys/z/status?fieldManager=me&force=true",
            "type": "application/apply-patch+yaml",
            "body": {"kind": "Y"},
        }
        answer = await kube.apply("/apis/x/v1/ys/z", {}, field_manager="me", force=False)
        assert answer["path"] == "/apis/x/v1/ys/z?fieldManager=me&force=false"


async def test_a_refused_token_is_renewed_once() -> None:
    async with fake_api(status(401, "Unauthorized"), echo()) as api, client(api, Tokens()) as kube:
        await kube.get("/version")
        assert [headers["Authorization"] for headers in api.headers] == ["Bearer old", "Bearer new"]


async def test_a_token_that_is_refused_twice_is_an_error() -> None:
    script = [status(401, "Unauthorized"), status(401, "Unauthorized", "who are you?")]
    async with fake_api(*script) as api, client(api, Tokens()) as kube:
        with pytest.raises(ApiError, match="who are you") as caught:
            await kube.get("/version")
        assert (caught.value.status, caught.value.reason) == (401, "Unauthorized")


async def test_the_servers_own_words_are_kept() -> None:
    refusal = status(409, "Conflict", 'the field "spec.mode" is owned by someone else', **{"Retry-After": "3"})
    async with fake_api(refusal) as api, client(api) as kube:
        with pytest.raises(ApiError) as caught:
            await kube.apply("/apis/x/v1/ys/z", {}, field_manager="me")
        error = caught.value
        assert (error.status, error.reason, error.retry_after) == (409, "Conflict", 3.0)
        assert str(error) == ('409 Conflict: PATCH /apis/x/v1/ys/z: the field "spec.mode" is owned by someone else')


async def test_an_error_that_is_no_status_object() -> None:
    async def proxy_page(_: web.Request) -> web.Response:
        return web.Response(status=502, text="<html>Bad gateway</html>")

    async with fake_api(proxy_page) as api, client(api) as kube:
        with pytest.raises(ApiError, match="Bad gateway") as caught:
            await kube.get("/version")
        assert caught.value.status == 502


async def test_a_redirect_is_not_followed_with_our_token() -> None:
    async def elsewhere(_: web.Request) -> web.Response:
        return web.Response(status=302, headers={"Location": "/elsewhere"})

    async with fake_api(elsewhere, echo()) as api, client(api) as kube:
        with pytest.raises(ApiError) as caught:
            await kube.get("/version")
        assert caught.value.status == 302
        assert len(api.requests) == 1


async def test_what_is_no_object() -> None:
    async def text(_: web.Request) -> web.Response:
        return web.Response(text="ok")

    async with fake_api(text, text) as api, client(api) as kube:
        with pytest.raises(ApiError, match="InvalidResponse"):
            await kube.get("/version")
        with pytest.raises(ApiError, match="not a list"):
            async for _ in kube.pages("/api/v1/nodes", raw_items):
                pass


async def test_pages_can_be_taken_in_one() -> None:
    async with fake_api(listed(3, obj("a", 1), obj("b", 2))) as api, client(api) as kube:
        pages = [page async for page in kube.pages("/api/v1/nodes", raw_items, page_size=0)]
        assert [(len(page.items), page.resource_version, page.last) for page in pages] == [(2, "3", True)]
        assert "limit" not in api.requests[0][1]


async def test_a_server_that_is_not_there(unused_tcp_port: int) -> None:
    nowhere = ClusterConfig(server=f"http://127.0.0.1:{unused_tcp_port}", credentials=StaticCredentials(Credential()))
    async with KubeClient(nowhere) as kube:
        with pytest.raises(ApiError, match=f"http://127.0.0.1:{unused_tcp_port}/version") as caught:
            await kube.get("/version")
        assert (caught.value.status, caught.value.reason) == (0, "ConnectionError")


async def test_every_request_is_counted_once_by_what_was_answered(unused_tcp_port: int) -> None:
    answers: list[tuple[str, str]] = []

    def count(method: str, code: str, seconds: float) -> None:
        assert seconds > 0
        answers.append((method, code))

    refusals = (status(401, "Unauthorized"), echo(), status(403, "Forbidden"))
    async with fake_api(*refusals) as api, client(api, Tokens(), count) as kube:
        await kube.get("/version")
        with pytest.raises(ApiError, match="403"):
            await kube.create("/api/v1/namespaces/default/events", {})
    assert answers == [("GET", "401"), ("GET", "200"), ("POST", "403")]
    nowhere = ClusterConfig(server=f"http://127.0.0.1:{unused_tcp_port}", credentials=StaticCredentials(Credential()))
    async with KubeClient(nowhere, on_answer=count) as kube:
        with pytest.raises(ApiError):
            await kube.get("/version")
    assert answers[3:] == [("GET", "<error>")]
    silent = (status(401, "Unauthorized"), vanished(), vanished())
    async with fake_api(*silent) as api, client(api, Tokens(), count) as kube:
        with pytest.raises(ApiError):
            await kube.get("/version")
    assert answers[4:] == [("GET", "401"), ("GET", "<error>")]


async def test_credentials_that_cannot_be_had() -> None:
    async with fake_api() as api, client(api, NoCredentials()) as kube:
        with pytest.raises(ApiError, match="exec plugin x ended with status 1") as caught:
            await kube.get("/version")
        assert (caught.value.status, caught.value.reason) == (0, "CredentialError")
        assert api.requests == []


async def test_a_client_certificate_that_does_not_load() -> None:
    credential = Credential(certificate=ClientCertificate(b"no", b"pem"))
    config = ClusterConfig(server="https://127.0.0.1:1", credentials=StaticCredentials(credential))
    async with KubeClient(config) as kube:
        with pytest.raises(ApiError, match="client certificate and key do not load"):
            await kube.get("/version")
