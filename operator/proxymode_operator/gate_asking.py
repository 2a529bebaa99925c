"""Asks a gate: one request to Prometheus or to a webhook, and what its answer means.

Solves: every way in which a question can fail to be answered (no connection, a certificate, no token, a redirect, a
query that is not understood, too many series) becomes an answer `Error` in words that name the field and the value;
nothing raises. Certificates are always verified, no redirect is followed (it would take the token along), at most a
mebibyte is read, and a token is in no message. Deliberately decides nothing, retries nothing and knows no rollout.

Prometheus: "Instant queries" in its HTTP API. Webhook: see `proxymode_api.gates.WebhookGate`.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import math
import ssl
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self

import aiohttp

from proxymode_api.durations import parse_duration
from proxymode_api.gates import GateResult
from proxymode_operator.kubeapi import ApiError
from proxymode_operator.rollout.gates import judge

if TYPE_CHECKING:
    from proxymode_api.gates import Gate, HttpTarget, SecretKey
    from proxymode_operator.kubeapi import KubeApi
    from proxymode_operator.rollout.gates import Question

LARGEST_ANSWER: Final = 1 << 20
_SHOWN: Final = 200
_NOT_JUDGED: Final = frozenset({401, 403, 404, 405, 407, 408, 429})
"""4xx of a webhook that say that the request did not get to whoever judges."""


class Answer(NamedTuple):
    """What came back; `value` is the query's, or the webhook's HTTP status."""

    result: GateResult
    value: str
    message: str


class _UnansweredError(Exception):
    """The question was not answered; the message says why."""


class Asker:
    """An open connection pool. Use as an async context manager. Secrets are read from `namespace`, anew each time:
    tokens rotate."""

    def __init__(self, api: KubeApi, namespace: str) -> None:
        self._api = api
        self._namespace = namespace

    async def __aenter__(self) -> Self:
        self._http = aiohttp.ClientSession(auto_decompress=True)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.close()

    async def ask(self, proxy_mode: str, mode: str, question: Question) -> Answer:
        """One question; takes at most the gate's timeout."""
        gate = question.gate
        kind = "prometheus" if gate.prometheus is not None else "webhook"
        try:
            async with asyncio.timeout(parse_duration(gate.timeout).total_seconds()):
                if gate.prometheus is not None:
                    return await self._query(gate)
                return await self._post(gate, proxy_mode, mode, question)
        except TimeoutError:
            target = gate.prometheus or gate.webhook
            url = target.url if target is not None else ""
            return Answer(GateResult.ERROR, "", f"{kind}.url {url}: no answer within timeout {gate.timeout}")
        except _UnansweredError as error:
            return Answer(GateResult.ERROR, "", f"{kind}.{error}")

    async def _query(self, gate: Gate) -> Answer:
        found = gate.prometheus
        assert found is not None
        url = found.url.rstrip("/") + "/api/v1/query"
        form = {"query": found.query, "timeout": f"{parse_duration(gate.timeout).total_seconds():g}s"}
        status, text = await self._send(found, url, data=form)
        answer = _json_object(text)
        if answer.get("status") == "error" and "error" in answer:
            about = "query" if answer.get("errorType") in ("bad_data", "execution") else f"url {found.url}"
            value = f" {found.query[:_SHOWN]!r}" if about == "query" else ""
            raise _UnansweredError(f"{about}{value}: {str(answer['error'])[:_SHOWN]}")
        if status != 200 or answer.get("status") != "success":
            raise _UnansweredError(f"url {found.url}: {_what_came(status, text)}, which is no answer of Prometheus'")
        return _judged(gate, answer.get("data"))

    async def _post(self, gate: Gate, proxy_mode: str, mode: str, question: Question) -> Answer:
        found = gate.webhook
        assert found is not None
        body = {
            "gate": gate.name,
            "proxyMode": proxy_mode,
            "revision": question.revision,
            "mode": mode,
            "stage": question.stage,
        }
        status, text = await self._send(found, found.url, json=body)
        came = _what_came(status, text)
        if 200 <= status < 300:
            return Answer(GateResult.PASS, str(status), f"the webhook answered {came}")
        if 400 <= status < 500 and status not in _NOT_JUDGED:
            return Answer(GateResult.FAIL, str(status), f"the webhook answered {came}")
        raise _UnansweredError(f"url {found.url}: {came}")

    async def _send(self, target: HttpTarget, url: str, **body: Any) -> tuple[int, bytes]:
        headers = {"Accept": "application/json"}
        if target.bearer_token_secret is not None:
            headers["Authorization"] = f"Bearer {await self._token(target.bearer_token_secret)}"
        try:
            trust = await asyncio.to_thread(_trust, target.ca)
        except (ssl.SSLError, ValueError) as error:
            raise _UnansweredError(f"ca: not certificates in PEM: {error}") from error
        try:
            async with self._http.post(url, headers=headers, ssl=trust, allow_redirects=False, **body) as response:
                if 300 <= response.status < 400:
                    where = response.headers.get("Location", "nowhere")[:_SHOWN]
                    raise _UnansweredError(f"url {target.url}: redirects to {where}, write that address")
                return response.status, await _bounded(response, target)
        except (aiohttp.ClientError, aiohttp.InvalidURL, OSError, ValueError) as error:
            raise _UnansweredError(f"url {target.url}: {_one_line(error)}") from error

    async def _token(self, where: SecretKey) -> str:
        field = f"bearerTokenSecret {where.name}"
        try:
            secret = await self._api.get(f"/api/v1/namespaces/{self._namespace}/secrets/{where.name}")
        except ApiError as error:
            todo = {
                403: "the Role proxymode-operator must name it in resourceNames",
                404: f"there is no such Secret in namespace {self._namespace}",
            }.get(error.code, str(error)[:_SHOWN])
            raise _UnansweredError(f"{field}: {todo}") from error
        data = secret.get("data") or {}
        if where.key not in data:
            raise _UnansweredError(f"{field}: it has no key {where.key!r}, but {', '.join(sorted(data)) or 'none'}")
        try:
            token = base64.b64decode(data[where.key], validate=True).decode("ascii").strip()
        except (binascii.Error, ValueError):
            token = ""
        if not token or not token.isprintable():
            raise _UnansweredError(f"{field}, key {where.key}: not a token in ASCII")
        return token


@lru_cache(maxsize=32)
def _trust(ca: str) -> ssl.SSLContext:
    """Reads the system's certificates from files where none are given."""
    return ssl.create_default_context(cadata=ca or None)


async def _bounded(response: aiohttp.ClientResponse, target: HttpTarget) -> bytes:
    text = bytearray()
    async for chunk in response.content.iter_chunked(1 << 16):
        text += chunk
        if len(text) > LARGEST_ANSWER:
            raise _UnansweredError(f"url {target.url}: the answer has more than {LARGEST_ANSWER} bytes")
    return bytes(text)


def _judged(gate: Gate, data: Any) -> Answer:
    """The one value of a query's result, held against the threshold."""
    assert gate.prometheus is not None
    threshold, query = gate.prometheus.threshold, f"query {gate.prometheus.query[:_SHOWN]!r}"
    match data:
        case {"resultType": "scalar", "result": [_, str(text)]}:
            pass
        case {"resultType": "vector", "result": []}:
            return Answer(GateResult.NO_DATA, "", f"prometheus.{query}: the result is empty")
        case {"resultType": "vector", "result": [{"value": [_, str(text)]}]}:
            pass
        case {"resultType": "vector", "result": [*many]}:
            raise _UnansweredError(f"{query}: {len(many)} series where one is needed: put sum() or max() around it")
        case _:
            kind = str(data.get("resultType", "nothing"))[:32] if isinstance(data, dict) else "nothing"
            raise _UnansweredError(f"{query}: the result is a {kind} where one value is needed")
    try:
        value = float(text)
    except ValueError:
        raise _UnansweredError(f"{query}: {text[:32]!r} is no number") from None
    if math.isnan(value):
        return Answer(GateResult.NO_DATA, text, f"prometheus.{query}: the result is NaN")
    passes = judge(gate, value)
    words = f"{text} is {'' if passes else 'not '}{threshold.operator} {threshold.value}"
    return Answer(GateResult.PASS if passes else GateResult.FAIL, text, words)


def _json_object(text: bytes) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _what_came(status: int, text: bytes) -> str:
    words = " ".join(text[: 4 * _SHOWN].decode(errors="replace").split())[:_SHOWN]
    return f"{status}: {words}" if words else str(status)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:_SHOWN] or type(error).__name__
