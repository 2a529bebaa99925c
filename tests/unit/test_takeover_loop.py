"""What the take-over does where kube-proxy's DaemonSet cannot be read or changed."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, cast

import pytest

from proxymode_operator.cache import Cache
from proxymode_operator.kubeapi import ApiError, Kind
from proxymode_operator.takeover.loop import TakeOver
from test_operator_cache import node, npm, pm

if TYPE_CHECKING:
    from proxymode_operator.kubeapi import KubeApi
    from proxymode_operator.rollout.model import Notice


class Server:
    """An API server that refuses the DaemonSet with this code."""

    def __init__(self, code: int) -> None:
        self.code = code
        self.notices: list[tuple[str, Notice]] = []

    async def get(self, path: str) -> dict[str, Any]:
        raise ApiError(self.code, "Because", f"GET {path}")

    async def post_notice(self, proxy_mode: str, uid: str, notice: Notice) -> None:
        self.notices.append((proxy_mode, notice))


def obstacle(code: int, policy: str) -> tuple[bool, list[str], str]:
    """Of two looks: whether all could be done, what was told, and what the ProxyMode says of it."""
    server, cache = Server(code), Cache(lambda _: None)
    options = {"mode": "nftables", "kubeProxy": {"policy": policy}}
    cache.put(Kind.PROXY_MODE, pm("fleet", kubeProxy={"policy": policy}))
    cache.put(Kind.NODE, node("n1"))
    cache.put(Kind.NODE_PROXY_MODE, npm("n1", spec=options | {"proxyMode": "fleet"}))
    take_over = TakeOver(cast("KubeApi", server), cache)
    done = [asyncio.run(take_over.look()) for _ in range(2)]
    assert done[0] is done[1]
    fleet = cache.fleet("fleet", None)
    assert fleet is not None
    return done[0], [f"{name} {notice.reason}" for name, notice in server.notices], fleet.obstacle


@pytest.mark.parametrize("policy", ["TakeOver", "HandBack"])
def test_a_daemon_set_that_may_not_be_changed_is_told_once_whichever_way_nodes_go(policy: str) -> None:
    done, told, said = obstacle(403, policy)
    assert not done
    assert told == ["fleet KubeProxyNotMoved"]
    assert said.startswith("The operator may not change DaemonSet kube-system/kube-proxy")


def test_where_there_is_no_daemon_set_nodes_cannot_be_taken_over() -> None:
    done, told, said = obstacle(404, "TakeOver")
    assert not done
    assert told == ["fleet KubeProxyNotMoved"]
    assert said.startswith("There is no DaemonSet kube-system/kube-proxy")


def test_where_there_is_no_daemon_set_there_is_none_to_put_back() -> None:
    assert obstacle(404, "HandBack") == (True, [], "")


@pytest.mark.parametrize("policy", ["TakeOver", "HandBack"])
def test_a_conflict_is_tried_again_without_a_word(policy: str) -> None:
    assert obstacle(409, policy) == (False, [], "")
