"""Looks whether kube-proxy's DaemonSet and the Nodes' labels are as they have to be, and writes: when something has
changed, and every few seconds.

Nothing is asked of the API server as long as no node was told another policy than Ignore. The DaemonSet is read each
time and not watched: it is one object, whose name people choose. What cannot be done (no such DaemonSet, no right to
change it) is told as an Event about the ProxyModes concerned and in their condition Degraded, and tried again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Final

from proxymode_api.common import KubeProxyOptions
from proxymode_api.labels import SERVICE_PROXY_AGENT, SERVICE_PROXY_LABEL
from proxymode_api.modes import KubeProxyPolicy
from proxymode_api.reasons.codes import Reason
from proxymode_operator.kubeapi import ApiError, Kind
from proxymode_operator.metrics import TAKE_OVER_WRITES
from proxymode_operator.rollout.model import Notice, NoticeType
from proxymode_operator.takeover import daemonset
from proxymode_operator.takeover.membership import daemon_sets, labellings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from proxymode_operator.cache import Cache
    from proxymode_operator.kubeapi import KubeApi
    from proxymode_operator.rollout.model import Node
    from proxymode_operator.takeover.membership import DaemonSetName, Labelling

logger = logging.getLogger(__name__)

EVERY_SECONDS: Final = 5.0
COLLECT_SECONDS: Final = 0.5
AT_MOST_SECONDS: Final = 60.0
FIELD_MANAGER: Final = "proxymode-take-over"
"""Another one than that of NodeProxyModes: what it owns in kube-proxy's DaemonSet is seen at a glance."""


class TakeOver:
    """`run` it in a task, while this replica leads."""

    def __init__(self, api: KubeApi, cache: Cache) -> None:
        self._api = api
        self._cache = cache
        self._told: dict[DaemonSetName, str] = {}
        self._woken = asyncio.Event()

    def wake(self) -> None:
        """Something in the cache has changed."""
        self._woken.set()

    async def run(self) -> None:
        """Work until cancelled. Raises NotLeaderError."""
        wait = EVERY_SECONDS
        while True:
            self._woken.clear()
            if await self.look():
                wait = EVERY_SECONDS
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(wait):
                        await self._woken.wait()
                await asyncio.sleep(COLLECT_SECONDS)
            else:
                await asyncio.sleep(wait)
                wait = min(2 * wait, AT_MOST_SECONDS)

    async def look(self) -> bool:
        """Do what is to be done now; whether all of it could be done."""
        nodes = self._cache.handed()
        kept_off: dict[DaemonSetName, bool] = {}
        done = True
        for name, keep_off in daemon_sets(nodes).items():
            try:
                kept_off[name] = await self._daemon_set(name, keep_off=keep_off)
                self._told.pop(name, None)
                self._obstruct(name, "")
            except ApiError as error:
                if error.code == 404 and not keep_off:
                    continue  # there is nothing to put back
                done = False
                if error.code != 409:
                    await self._tell(name, _problem(name, error), nodes)
        for change in labellings(nodes, kept_off):
            done = await self._label(change) and done
        return done

    async def _daemon_set(self, name: DaemonSetName, *, keep_off: bool) -> bool:
        """Whether it is kept off labelled nodes now."""
        path = f"/apis/apps/v1/namespaces/{name.namespace}/daemonsets/{name.name}"
        found = await self._api.get(path)
        body = daemonset.edit(found, keep_off=keep_off)
        if body is not None:
            found = await self._api.apply_at(path, body, manager=FIELD_MANAGER)
            TAKE_OVER_WRITES.labels("daemonset").inc()
            logger.info("kube-proxy's DaemonSet changed", extra={"daemonset": str(name), "kept_off": keep_off})
        return daemonset.kept_off(found)

    async def _label(self, change: Labelling) -> bool:
        value = SERVICE_PROXY_AGENT if change.labelled else None
        body = {"metadata": {"uid": change.uid, "labels": {SERVICE_PROXY_LABEL: value}}}
        try:
            answer = await self._api.merge(Kind.NODE, change.node, body, manager=FIELD_MANAGER)
        except ApiError as error:
            logger.warning("Node not labelled", extra={"node": change.node, "error": str(error)})
            return False
        self._cache.put(Kind.NODE, answer)
        TAKE_OVER_WRITES.labels("node").inc()
        logger.info("Node labelled", extra={"node": change.node, "service_proxy": value or ""})
        return True

    def _obstruct(self, name: DaemonSetName, problem: str) -> None:
        """Of ProxyModes that name the DaemonSet, whichever way their nodes go."""
        for policy in (KubeProxyPolicy.TAKE_OVER, KubeProxyPolicy.HAND_BACK):
            options = KubeProxyOptions(policy=policy, namespace=name.namespace, daemon_set=name.name)
            self._cache.obstruct(options, problem)

    async def _tell(self, name: DaemonSetName, problem: str, nodes: Sequence[Node]) -> None:
        if self._told.get(name) == problem:
            return
        self._told[name] = problem
        self._obstruct(name, problem)
        logger.error("kube-proxy's DaemonSet cannot be changed", extra={"daemonset": str(name), "error": problem})
        notice = Notice(reason=Reason.KUBE_PROXY_NOT_MOVED, action="TakeOver", note=problem, type=NoticeType.WARNING)
        known = self._cache.known(Kind.PROXY_MODE)
        concerned = {node.asked.intent.proxy_mode for node in nodes if node.asked is not None}
        for proxy_mode in sorted(concerned & known.keys()):
            try:
                await self._api.post_notice(proxy_mode, known[proxy_mode], notice)
            except ApiError as error:
                logger.warning("event not posted", extra={"reason": notice.reason, "error": str(error)})


def _problem(name: DaemonSetName, error: ApiError) -> str:
    """What is wrong and what to do, for people."""
    if error.code == 404:
        return (
            f"There is no DaemonSet {name}. Name it in spec.kubeProxy. Where kube-proxy is a static pod, move its "
            "manifest out of /etc/kubernetes/manifests when the node's turn comes; in k3s and RKE2 give the servers "
            "--disable-kube-proxy and restart the node; and label the Node proxymode.io/service-proxy=agent."
        )
    if error.code == 403:
        return (
            f"The operator may not change DaemonSet {name}: its Role proxymode-operator-take-over is for "
            f"kube-system/kube-proxy; make one like it in namespace {name.namespace}. {error}"
        )
    return f"DaemonSet {name}: {error}"
