"""Gates with everything real but the nodes: the operator process with its own rights, a Prometheus that scrapes, a
webhook over TLS that wants the token of a Secret."""

from __future__ import annotations

import asyncio
from base64 import b64encode
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web

from operator_bed import Bed, api, bed
from proxymode_testbeds import certificates
from proxymode_testbeds.polling import eventually
from proxymode_testbeds.prometheus import Prometheus, PrometheusError, prometheus

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator
    from pathlib import Path

    from proxymode_testbeds.apiserver import ApiServer

__all__ = ["api"]

TWO_STAGES = [{"name": "one", "count": 1}, {"name": "all", "percent": 100}]
FOUR = [f"n{index}" for index in range(4)]
QUICK = {"interval": "1s", "timeout": "1m"}
TOKEN = "open-sesame"
SECRETS = "/api/v1/namespaces/proxymode-system/secrets"


@pytest.fixture
async def fleet(api: ApiServer, tmp_path: Path) -> AsyncIterator[Bed]:
    async with bed(api, tmp_path) as found:
        await found.add_nodes(*FOUR)
        yield found


@dataclass
class Shop:
    """A program with an error rate, which Prometheus scrapes, and a judge who knows the token."""

    errors: float = 0.0
    verdict: int = 200
    asked: list[dict[str, Any]] = field(default_factory=list)
    strangers: int = 0

    async def metrics(self, _: web.Request) -> web.Response:
        return web.Response(text=f"# TYPE shop_errors gauge\nshop_errors {self.errors}\n")

    async def judge(self, request: web.Request) -> web.Response:
        if request.headers.get("Authorization") != f"Bearer {TOKEN}":
            self.strangers += 1
            return web.Response(status=401)
        self.asked.append(await request.json())
        return web.Response(status=self.verdict, text="as you wish" if self.verdict == 200 else "not on a Friday")

    @asynccontextmanager
    async def served(self, trust: ssl.SSLContext | None = None) -> AsyncIterator[int]:
        """The port, on loopback."""
        application = web.Application()
        application.add_routes([web.get("/metrics", self.metrics), web.post("/judge", self.judge)])
        runner = web.AppRunner(application, handle_signals=False, shutdown_timeout=0.1)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=trust).start()
            yield runner.addresses[0][1]
        finally:
            await runner.cleanup()


def error_rate(server: Prometheus, query: str = "shop_errors") -> dict[str, Any]:
    threshold = {"operator": "<", "value": "0.1"}
    return {"name": "errors", "prometheus": {"url": server.url, "query": query, "threshold": threshold}} | QUICK


async def scraped(server: Prometheus, value: float) -> None:
    async def there() -> bool:
        try:
            found = await asyncio.to_thread(server.ask, "shop_errors")
        except PrometheusError:  # it listens before it answers
            return False
        return [sample["value"][1] for sample in found] == [f"{value:g}"]

    await eventually(there, f"shop_errors {value:g} in Prometheus")


async def test_a_rollout_goes_as_far_as_a_real_prometheus_lets_it(fleet: Bed, tmp_path: Path) -> None:
    shop = Shop()
    async with shop.served() as port, fleet.operator():
        with prometheus(None, tmp_path / "prometheus", {"shop": (f"127.0.0.1:{port}", {})}) as server:
            await scraped(server, 0)
            stages = [TWO_STAGES[0] | {"soak": "1h"}, TWO_STAGES[1]]
            await fleet.create(stages=stages, gates=[error_rate(server)], onFailure="Rollback")
            await fleet.until_status("Soaking")
            assert list(fleet.modes().values()).count("nftables") == 1
            shop.errors = 0.75
            await fleet.until_event("RolloutRolledBack")
            assert set(fleet.modes().values()) == {"ipvs"}
            degraded = await fleet.condition("Degraded")
            assert "spec.rollout.gates[0] (errors): 0.75 is not < 0.1 (Fail after stage one)" in degraded["message"]
            reasons = await fleet.event_reasons()
            assert "GatePassed" in reasons
            assert "GateFailed" in reasons
            (gate,) = (await fleet.status())["gates"]
            assert (gate["result"], gate["value"], gate["stage"]) == ("Fail", "0.75", "one")


async def test_a_query_that_does_not_parse_and_a_prometheus_that_is_gone_move_nothing(
    fleet: Bed, tmp_path: Path
) -> None:
    async with fleet.operator():
        with prometheus(None, tmp_path / "prometheus", {}) as server:
            await fleet.create(stages=TWO_STAGES, gates=[error_rate(server, "sum(shop_errors")])
            await fleet.until_status("AwaitingGates")
            await fleet.until_event("GateUnanswered")
            waits = (await fleet.condition("Progressing"))["message"]
            assert "spec.rollout.gates[0] (errors): prometheus.query 'sum(shop_errors'" in waits
            assert "parse error: unclosed left parenthesis" in waits
            assert (await fleet.condition("GatesPassing"))["status"] == "Unknown"
        gone = f"{server.url}: Cannot connect"

        async def noticed() -> bool:
            return gone in (await fleet.condition("GatesPassing"))["message"]

        await fleet.edit({"spec": {"rollout": {"gates": [error_rate(server)]}}})
        await eventually(noticed, gone)
        assert set(fleet.modes().values()) == {"ipvs"}
        # The way out of a gate that nobody answers: take it out.
        await fleet.edit({"spec": {"rollout": {"gates": []}}})
        await fleet.until_status("Complete")


async def test_a_webhook_over_tls_is_asked_with_the_token_of_the_secret_that_the_operator_may_read(
    fleet: Bed, tmp_path: Path
) -> None:
    shop, certificate = Shop(verdict=409), certificates.for_loopback(tmp_path / "certificate")
    async with shop.served(certificate.context) as port, fleet.operator():
        target = {
            "url": f"https://127.0.0.1:{port}/judge",
            "ca": certificate.pem,
            "bearerTokenSecret": {"name": "somebody-elses", "key": "judge"},
        }
        await fleet.create(stages=TWO_STAGES, gates=[{"name": "judge", "webhook": target} | QUICK])

        async def told(words: str) -> None:
            async def there() -> bool:
                return words in (await fleet.condition("GatesPassing")).get("message", "")

            await eventually(there, words)

        await told("bearerTokenSecret somebody-elses: the Role proxymode-operator must name it in resourceNames")
        target["bearerTokenSecret"] = {"name": "proxymode-gates", "key": "judge"}
        await fleet.edit({"spec": {"rollout": {"gates": [{"name": "judge", "webhook": target} | QUICK]}}})
        await told("bearerTokenSecret proxymode-gates: there is no such Secret in namespace proxymode-system")
        assert (shop.asked, shop.strangers) == ([], 0)
        await put_token(fleet)
        try:
            await told("the webhook answered 409: not on a Friday (Fail before the first stage")
            assert set(fleet.modes().values()) == {"ipvs"}
            shop.verdict = 200
            await fleet.until_status("Complete")
        finally:
            await fleet.request("DELETE", f"{SECRETS}/proxymode-gates")
    about = [{"stage": asked["stage"], "revision": asked["revision"], "mode": asked["mode"]} for asked in shop.asked]
    assert about[-1] == {"stage": "one", "revision": 1, "mode": "nftables"}
    assert shop.strangers == 0


async def put_token(fleet: Bed) -> None:
    meta = {"name": "proxymode-gates", "namespace": "proxymode-system"}
    body = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": meta,
        "data": {"judge": b64encode(TOKEN.encode()).decode()},
    }
    await fleet.request("POST", SECRETS, body)


async def test_a_gate_that_hangs_keeps_nobody_else_waiting(fleet: Bed) -> None:
    async def hang(_: web.Request) -> web.Response:
        await release.wait()
        return web.Response()

    release = asyncio.Event()
    application = web.Application()
    application.add_routes([web.post("/", hang)])
    runner = web.AppRunner(application, handle_signals=False, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}/"
        async with fleet.operator():
            gate = {"name": "slow", "webhook": {"url": url}, "interval": "1s", "timeout": "5m"}
            await fleet.create("held", stages=TWO_STAGES, gates=[gate])
            await fleet.until_status("AwaitingGates", "held")
            await fleet.edit({"spec": {"priority": -1}}, "held")
            await fleet.create("free", stages=TWO_STAGES)
            await fleet.until_status("Complete", "free")
    finally:
        release.set()
        await runner.cleanup()
