"""The API server bed itself: users, certificates, what happens when a server cannot start or its owner dies."""

from __future__ import annotations

import asyncio
import os
import signal
import ssl
import sys
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from proxymode_testbeds.apiserver import ApiServer, StartError
from proxymode_testbeds.apiserver.tokens import TokenReviewWebhook, Tokens
from proxymode_testbeds.polling import eventually


class TestUsers:
    async def test_a_token_that_nobody_has_is_401(self, http: aiohttp.ClientSession) -> None:
        async with http.get("/api/v1/nodes", headers={"Authorization": "Bearer nobody"}) as answer:
            assert answer.status == 401

    async def test_a_token_added_while_the_server_runs_is_valid_at_once(
        self, api: ApiServer, http: aiohttp.ClientSession
    ) -> None:
        token = api.add_token("late", ["system:masters"])
        async with http.get("/api/v1/nodes", headers={"Authorization": f"Bearer {token}"}) as answer:
            assert answer.status == 200

    async def test_no_kubeconfig_without_a_token(self, api: ApiServer) -> None:
        with pytest.raises(LookupError, match=r"no token for 'ghost'.*admin"):
            api.kubeconfig("ghost")


class TestTokenReviews:
    """How a real kube-apiserver learns of our users; ours reads the file instead."""

    @pytest.fixture
    def tokens(self, tmp_path: Path) -> Tokens:
        return Tokens(tmp_path / "tokens.json")

    async def test_a_known_token_is_its_user_and_follows_changes(self, tokens: Tokens) -> None:
        token = tokens.add("agent", ["nodes"], {"example.org/node": ["n1"]})
        with TokenReviewWebhook(tokens) as address:
            known = await reviewed(address, token)
            assert known["authenticated"] is True
            assert known["user"] == {
                "username": "agent",
                "uid": "uid-of-agent",
                "groups": ["nodes"],
                "extra": {"example.org/node": ["n1"]},
            }
            assert tokens.add("agent", ["others"]) == token
            assert (await reviewed(address, token))["user"]["groups"] == ["others"]

    async def test_an_unknown_token_is_nobody(self, tokens: Tokens) -> None:
        with TokenReviewWebhook(tokens) as address:
            assert await reviewed(address, "nobody") == {"authenticated": False}

    def test_the_file_is_for_its_owner_only(self, tokens: Tokens) -> None:
        tokens.add("agent")
        assert tokens.path.stat().st_mode & 0o077 == 0


async def reviewed(address: str, token: str) -> dict[str, Any]:
    review = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token}}
    async with aiohttp.ClientSession() as session, session.post(address, json=review) as answer:
        status: dict[str, Any] = (await answer.json())["status"]
        return status


class TestTheBed:
    async def test_the_version_can_be_pretended(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("KUBEBUILDER_ASSETS", raising=False)
        async with ApiServer.start(tmp_path / "api", kube_version="v1.39.2") as api:
            server = (await api.kubectl("version", "--output=json")).json()["serverVersion"]
        assert (server["major"], server["minor"], server["gitVersion"]) == ("1", "39", "v1.39.2")

    async def test_the_certificate_is_good_for_a_vm_guest_too(self, api: ApiServer) -> None:
        trust = ssl.create_default_context(cafile=str(api.ca_file))
        port = int(api.url.rpartition(":")[2])
        for name in ("127.0.0.1", "localhost", "10.0.2.2"):
            _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=trust, server_hostname=name)
            writer.close()
            await writer.wait_closed()
        assert api.guest_url == f"https://10.0.2.2:{port}"

    async def test_two_servers_have_nothing_in_common(self, api: ApiServer, empty_api: ApiServer) -> None:
        await empty_api.kubectl("create", "namespace", "only-here")
        assert "only-here" not in (await api.kubectl("get", "namespaces", "--output=name")).stdout

    async def test_servers_that_cannot_start_say_why(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        broken = tmp_path / "assets"
        broken.mkdir()
        ends = {"etcd": "exec sleep 600", "kube-apiserver": "echo 'no such flag' >&2; exit 3", "kubectl": ""}
        monkeypatch.setenv("KUBEBUILDER_ASSETS", str(broken))
        with pytest.raises(StartError, match=f"KUBEBUILDER_ASSETS '{broken}': there is no etcd, no kube-apiserver, no"):
            async with ApiServer.start(tmp_path / "none"):
                pass
        for program, script in ends.items():
            (broken / program).write_text(f"#!/bin/sh\n{script}\n")
            (broken / program).chmod(0o755)
        with pytest.raises(StartError) as caught:
            async with ApiServer.start(tmp_path / "api"):
                pass
        assert "a process died\n--- etcd.log (running)" in str(caught.value)
        assert "--- kube-apiserver.log (ended with status 3)\nno such flag" in str(caught.value)

    async def test_a_killed_owner_takes_its_servers_along(self, tmp_path: Path) -> None:
        owner = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "proxymode_testbeds.apiserver", "run"),
            stdout=asyncio.subprocess.PIPE,
            env=os.environ | {"TMPDIR": str(tmp_path)},
        )
        assert owner.stdout is not None
        async with asyncio.timeout(120):
            started = (await owner.stdout.readline()).decode()
        assert started.startswith("API server: https://")
        children = children_of(owner.pid)
        assert len(children) == 2
        owner.send_signal(signal.SIGKILL)
        await owner.wait()

        async def gone() -> bool:
            return not any(is_running(pid) for pid in children)

        await eventually(gone, f"processes {children} end with their owner")


def children_of(pid: int) -> set[int]:
    return {int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}


def is_running(pid: int) -> bool:
    """Whether a process exists and is not merely waiting for somebody to collect its status."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"
