"""What a gate's server may do to us, and that each becomes an answer in words that name the field and the value."""

from __future__ import annotations

import asyncio
import base64
import json
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from proxymode_api.gates import Gate, GateResult
from proxymode_operator.gate_asking import LARGEST_ANSWER, Answer, Asker
from proxymode_operator.kubeapi import ApiError
from proxymode_operator.rollout.gates import Question
from proxymode_testbeds import certificates

if TYPE_CHECKING:
    import ssl
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from proxymode_testbeds.certificates import Certificate

    Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

TOKEN = "s3cr3t-token"
PASS, FAIL, NO_DATA, ERROR = GateResult.PASS, GateResult.FAIL, GateResult.NO_DATA, GateResult.ERROR


class Secrets:
    """The API server, which has Secrets, or an error for whoever asks."""

    def __init__(self, data: dict[str, str] | None = None, code: int = 200) -> None:
        self.data = {"token": TOKEN} if data is None else data
        self.code = code
        self.paths: list[str] = []

    async def get(self, path: str) -> dict[str, Any]:
        self.paths.append(path)
        if self.code != 200:
            raise ApiError(self.code, "Why", "in the server's words")
        return {"data": {key: base64.b64encode(value.encode()).decode() for key, value in self.data.items()}}


async def asked(gate: Gate, secrets: Secrets | None = None) -> Answer:
    question = Question(gate=gate, definition="0", revision=7, stage="canary")
    async with Asker(secrets or Secrets(), "proxymode-system") as asker:  # type: ignore[arg-type]
        return await asker.ask("fleet", "nftables", question)


def prometheus(url: str, **fields: Any) -> Gate:
    target = {"url": url, "query": "errors", "threshold": {"operator": "<", "value": "0.5"}} | fields
    return Gate.model_validate({"name": "g", "prometheus": target, "timeout": "5m"})


def webhook(url: str, **fields: Any) -> Gate:
    return Gate.model_validate({"name": "g", "webhook": {"url": url} | fields, "timeout": "5m"})


class Server:
    """An HTTP server that answers everything by one handler and notes what it was asked."""

    def __init__(self, handler: Handler, trust: ssl.SSLContext | None = None) -> None:
        application = web.Application()
        application.router.add_route("*", "/{path:.*}", self._handle)
        self._server = TestServer(application, scheme="https" if trust else "http")
        self._handler, self._ssl = handler, trust
        self.requests: list[web.Request] = []
        self.bodies: list[str] = []

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request)
        self.bodies.append(await request.text())
        return await self._handler(request)

    async def __aenter__(self) -> Server:
        options: dict[str, Any] = {"ssl": self._ssl} if self._ssl else {}
        await self._server.start_server(shutdown_timeout=0.1, **options)
        self.url = str(self._server.make_url("/")).rstrip("/")
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._server.close()


def says(status: int, body: str = "", **headers: str) -> Handler:
    async def handler(_: web.Request) -> web.Response:
        return web.Response(status=status, text=body, headers=headers)

    return handler


def result(*samples: str, kind: str = "vector") -> Handler:
    found: Any = [{"metric": {}, "value": [1, sample]} for sample in samples]
    if kind == "scalar":
        found = [1, samples[0]]
    return says(200, json.dumps({"status": "success", "data": {"resultType": kind, "result": found}}))


def refused(kind: str, words: str, status: int = 400) -> Handler:
    return says(status, json.dumps({"status": "error", "errorType": kind, "error": words}))


@pytest.mark.parametrize(
    ("handler", "answer", "words"),
    [
        (result("0.25"), PASS, "0.25 is < 0.5"),
        (result("0.5"), FAIL, "0.5 is not < 0.5"),
        (result("+Inf"), FAIL, "+Inf is not < 0.5"),
        (result("0.1", kind="scalar"), PASS, "0.1 is < 0.5"),
        (result(), NO_DATA, "prometheus.query 'errors': the result is empty"),
        (result("NaN"), NO_DATA, "prometheus.query 'errors': the result is NaN"),
        (result("1", "2", "3"), ERROR, "prometheus.query 'errors': 3 series where one is needed"),
        (result("0", kind="matrix"), ERROR, "prometheus.query 'errors': the result is a matrix"),
        (
            refused("bad_data", 'invalid parameter "query": 1:5: parse error: unclosed left parenthesis'),
            ERROR,
            "prometheus.query 'errors': invalid parameter \"query\": 1:5: parse error: unclosed left parenthesis",
        ),
        (refused("timeout", "query timed out", 503), ERROR, "query timed out"),
        (says(401, "who are you?"), ERROR, "401: who are you?, which is no answer of Prometheus'"),
        (says(200, "<html>a login page</html>"), ERROR, "which is no answer of Prometheus'"),
        (says(302, Location="https://elsewhere/"), ERROR, "redirects to https://elsewhere/, write that address"),
        (says(200, "x" * (LARGEST_ANSWER + 1)), ERROR, f"more than {LARGEST_ANSWER} bytes"),
    ],
)
async def test_what_prometheus_says_is_held_against_the_threshold(
    handler: Handler, answer: GateResult, words: str
) -> None:
    async with Server(handler) as server:
        found = await asked(prometheus(f"{server.url}/prefix/"))
        assert (found.result, words in found.message) == (answer, True), found
        assert server.requests[0].path == "/prefix/api/v1/query"
        assert "query=errors" in server.bodies[0]
        assert len(server.requests) == 1, "neither followed nor tried again"


@pytest.mark.parametrize(
    ("status", "answer"),
    [
        (200, PASS),
        (204, PASS),
        (400, FAIL),
        (409, FAIL),
        (422, FAIL),
        (401, ERROR),
        (404, ERROR),
        (429, ERROR),
        (500, ERROR),
        (503, ERROR),
        (301, ERROR),
    ],
)
async def test_a_webhook_judges_by_its_status(status: int, answer: GateResult) -> None:
    async with Server(says(status, "because\nI say so")) as server:
        found = await asked(webhook(server.url))
        assert found.result is answer
        assert ("because I say so" in found.message) is (status != 204 and status != 301)
        told = json.loads(server.bodies[0])
        assert told == {"gate": "g", "proxyMode": "fleet", "revision": 7, "mode": "nftables", "stage": "canary"}


async def test_a_server_that_hangs_costs_its_timeout_and_is_named() -> None:
    async def hangs(_: web.Request) -> web.Response:
        await asyncio.Event().wait()
        raise AssertionError

    async with Server(hangs) as server:
        gate = webhook(server.url).model_copy(update={"timeout": "1s"})
        found = await asked(gate)
        assert found == (ERROR, "", f"webhook.url {server.url}: no answer within timeout 1s")


async def test_nobody_there_is_no_answer() -> None:
    found = await asked(prometheus("http://127.0.0.1:1"))
    assert found.result is ERROR
    assert found.message.startswith("prometheus.url http://127.0.0.1:1: Cannot connect")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return certificates.for_loopback(tmp_path_factory.mktemp("certificate"))


async def test_a_token_from_a_secret_goes_over_verified_tls(certificate: Certificate, tmp_path: Path) -> None:
    async with Server(result("0"), certificate.context) as server:
        secret = {"name": "proxymode-gates", "key": "token"}
        secrets = Secrets({"token": f"{TOKEN}\n"})
        found = await asked(prometheus(server.url, ca=certificate.pem, bearerTokenSecret=secret), secrets)
        assert found.result is PASS
        assert server.requests[0].headers["Authorization"] == f"Bearer {TOKEN}"
        assert secrets.paths == ["/api/v1/namespaces/proxymode-system/secrets/proxymode-gates"]

        for ca in ("", certificates.for_loopback(tmp_path).pem):
            distrusted = await asked(prometheus(server.url, ca=ca, bearerTokenSecret=secret))
            assert distrusted.result is ERROR
            assert "certificate verify failed" in distrusted.message
        assert len(server.requests) == 1, "no request, hence no token, went to a server that was not trusted"
        garbled = await asked(prometheus(server.url, ca="-----BEGIN NONSENSE-----"))
        assert garbled.message.startswith("prometheus.ca: not certificates in PEM")


@pytest.mark.parametrize(
    ("secrets", "words"),
    [
        (Secrets(code=403), "bearerTokenSecret mine: the Role proxymode-operator must name it in resourceNames"),
        (Secrets(code=404), "bearerTokenSecret mine: there is no such Secret in namespace proxymode-system"),
        (Secrets(code=500), "bearerTokenSecret mine: 500 Why: in the server's words"),
        (Secrets({"a": TOKEN, "b": TOKEN}), "bearerTokenSecret mine: it has no key 'token', but a, b"),
        (Secrets({"token": f"{TOKEN}\r\nX-Forged: yes"}), "bearerTokenSecret mine, key token: not a token in ASCII"),
        (Secrets({"token": ""}), "bearerTokenSecret mine, key token: not a token in ASCII"),
    ],
)
async def test_a_token_that_cannot_be_had_is_no_answer_and_is_in_no_message(secrets: Secrets, words: str) -> None:
    async with Server(says(200)) as server:
        found = await asked(webhook(server.url, bearerTokenSecret={"name": "mine", "key": "token"}), secrets)
        assert (found.result, found.message) == (ERROR, f"webhook.{words}")
        assert TOKEN not in found.message
        assert server.requests == []
