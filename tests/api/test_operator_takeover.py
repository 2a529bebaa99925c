"""The operator moves nodes between kube-proxy and the agents: its DaemonSet's affinity, and one label, node by node."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from cli_bed import plugin
from operator_bed import NODE_PROXY_MODES, NODES, PROXY_MODES, api, bed
from proxymode_api.labels import SERVICE_PROXY_LABEL
from proxymode_operator.takeover.daemonset import BEFORE_ANNOTATION
from proxymode_testbeds.polling import eventually

if TYPE_CHECKING:
    from pathlib import Path

    from operator_bed import Bed
    from proxymode_testbeds.apiserver import ApiServer

__all__ = ["api"]

Json = dict[str, Any]
DAEMON_SETS = "/apis/apps/v1/namespaces/kube-system/daemonsets"
OPERATOR = "system:serviceaccount:proxymode-system:proxymode-operator"
KUBE_PROXY = f"{DAEMON_SETS}/kube-proxy"
LINUX = {"matchExpressions": [{"key": "kubernetes.io/os", "operator": "In", "values": ["linux"]}]}


def daemon_set(terms: list[Json] | None = None) -> Json:
    spec: Json = {"containers": [{"name": "kube-proxy", "image": "kube-proxy:1"}], "hostNetwork": True}
    if terms is not None:
        required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}
        spec["affinity"] = {"nodeAffinity": required}
    labels = {"k8s-app": "kube-proxy"}
    return {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {"name": "kube-proxy", "namespace": "kube-system"},
        "spec": {
            "selector": {"matchLabels": labels},
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "10%", "maxSurge": 0}},
            "template": {"metadata": {"labels": labels}, "spec": spec},
        },
    }


async def create(fleet: Bed, policy: str) -> None:
    spec = {"mode": "nftables", "kubeProxy": {"policy": policy}, "rollout": {"maxUnavailable": 1}}
    body = {"apiVersion": "proxymode.io/v1alpha1", "kind": "ProxyMode", "metadata": {"name": "fleet"}, "spec": spec}
    await fleet.request("POST", PROXY_MODES, body)


async def labelled(fleet: Bed) -> set[str]:
    items = (await fleet.get(NODES))["items"]
    return {node["metadata"]["name"] for node in items if SERVICE_PROXY_LABEL in node["metadata"].get("labels", {})}


async def until_labelled(fleet: Bed, *names: str) -> None:
    async def so() -> bool:
        return await labelled(fleet) == set(names)

    await eventually(so, f"labels on {names}")


async def told(fleet: Bed, number: int) -> list[str]:
    """The nodes told so far, once they are so many."""
    await fleet.until(f"{number} told", lambda: len([mode for _, mode in fleet.history if mode]) >= number)
    return [name for name, mode in fleet.history if mode]


async def says(fleet: Bed, name: str, reason: str) -> None:
    """The node's agent reports the condition KubeProxyPresent with this reason."""
    condition = {
        "type": "KubeProxyPresent",
        "status": "True",
        "reason": reason,
        "message": "",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }
    body = {
        "apiVersion": "proxymode.io/v1alpha1",
        "kind": "NodeProxyMode",
        "metadata": {"name": name},
        "status": {"conditions": [condition]},
    }
    await fleet.request(
        "PATCH", f"{NODE_PROXY_MODES}/{name}/status", body, fieldManager="kube-proxy-part", force="true"
    )


async def arrives(fleet: Bed, name: str, kernel: str) -> None:
    agent = fleet.agents[name]
    agent.hold, agent.kernel = False, kernel
    await fleet.answer(name)


@pytest.mark.parametrize("terms", [None, [LINUX, {"matchFields": []}]])
async def test_nodes_are_taken_over_and_handed_back_one_by_one_and_the_daemon_set_is_as_before(
    api: ApiServer, tmp_path: Path, terms: list[Json] | None
) -> None:
    async with bed(api, tmp_path) as fleet:
        await fleet.add_nodes("n0", "n1")
        for agent in fleet.agents.values():
            agent.kernel, agent.hold = "kube-proxy-ipvs", True
        before = await fleet.request("POST", DAEMON_SETS, daemon_set(terms))
        try:
            async with fleet.operator():
                await create(fleet, "TakeOver")
                (first,) = await told(fleet, 1)
                await says(fleet, first, "ReadyToTakeOver")
                await until_labelled(fleet, first)
                found = await fleet.get(KUBE_PROXY)
                assert found["spec"]["updateStrategy"]["type"] == "OnDelete"
                affinity = found["spec"]["template"]["spec"]["affinity"]["nodeAffinity"]
                kept = affinity["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
                assert SERVICE_PROXY_LABEL in str(kept[0])
                assert len(kept) == len(terms or [None])
                await arrives(fleet, first, "nftables")
                _, second = await told(fleet, 2)
                assert await labelled(fleet) == {first}
                await says(fleet, second, "ReadyToTakeOver")
                await until_labelled(fleet, first, second)
                await arrives(fleet, second, "nftables")
                await fleet.until_status("Complete")

                # Somebody writes the whole object anew, as kubeadm upgrade does.
                fresh = daemon_set(terms)
                fresh["metadata"]["resourceVersion"] = (await fleet.get(KUBE_PROXY))["metadata"]["resourceVersion"]
                await fleet.request("PUT", KUBE_PROXY, fresh)

                async def kept_off_again() -> bool:
                    return SERVICE_PROXY_LABEL in str((await fleet.get(KUBE_PROXY))["spec"])

                await eventually(kept_off_again, "the affinity is there again")

                for agent in fleet.agents.values():
                    agent.kernel, agent.hold = "ipvs", True  # so that the bed's agents do not answer by themselves
                ran = await plugin(api, "undo", "fleet", "--to", "kube-proxy")
                assert "handed back to kube-proxy, the last stage first" in ran.out, ran.err
                for left in (1, 0):

                    async def in_turn(left: int = left) -> list[str]:
                        items = (await fleet.get(NODE_PROXY_MODES))["items"]
                        return [
                            item["metadata"]["name"]
                            for item in items
                            if item["spec"]["kubeProxy"]["policy"] == "HandBack"
                            and fleet.agents[item["metadata"]["name"]].kernel != "kube-proxy-ipvs"
                        ]

                    async def one_in_turn() -> bool:
                        return len(await in_turn()) == 1

                    await eventually(one_in_turn, "one node is told to go back")
                    (name,) = await in_turn()
                    await says(fleet, name, "ReadyToHandBack")

                    async def unlabelled(left: int = left) -> bool:
                        return len(await labelled(fleet)) == left

                    await eventually(unlabelled, f"{left} labels left")
                    await says(fleet, name, "HandedBack")
                    fleet.agents[name].kernel = "kube-proxy-ipvs"
                    await fleet._report(name, (await generation(fleet, name)), "nftables", "Active", ready=True)
                await fleet.until_status("Complete")

                async def put_back() -> bool:
                    found = await fleet.get(KUBE_PROXY)
                    return bool(
                        found["spec"] == before["spec"] and BEFORE_ANNOTATION not in found["metadata"]["annotations"]
                    )

                await eventually(put_back, "the DaemonSet is as it was")
        finally:
            await fleet.request("DELETE", KUBE_PROXY)


async def generation(fleet: Bed, name: str) -> int:
    found = await fleet.get(f"{NODE_PROXY_MODES}/{name}")
    return int(found["metadata"]["generation"])


async def test_without_a_daemon_set_an_event_says_what_to_do_and_no_node_is_labelled(
    api: ApiServer, tmp_path: Path
) -> None:
    async with bed(api, tmp_path) as fleet:
        await fleet.add_nodes("n0")
        fleet.agents["n0"].kernel, fleet.agents["n0"].hold = "kube-proxy-ipvs", True
        async with fleet.operator():
            await create(fleet, "TakeOver")
            (name,) = await told(fleet, 1)
            await says(fleet, name, "ReadyToTakeOver")
            await fleet.until_event("KubeProxyNotMoved")

            async def degraded(reason: str) -> bool:
                return bool((await fleet.condition("Degraded"))["reason"] == reason)

            await eventually(partial(degraded, "KubeProxyNotMoved"), "the condition says so too")
            assert "static pod" in (await fleet.condition("Degraded"))["message"]
            assert await labelled(fleet) == set()

            await fleet.request("POST", DAEMON_SETS, daemon_set())
            try:
                await until_labelled(fleet, name)
                await eventually(partial(degraded, "AsExpected"), "all is well")
            finally:
                await fleet.request("DELETE", KUBE_PROXY)


async def test_with_policy_ignore_nothing_of_kube_proxy_is_touched(api: ApiServer, tmp_path: Path) -> None:
    async with bed(api, tmp_path) as fleet:
        await fleet.add_nodes("n0")
        before = await fleet.request("POST", DAEMON_SETS, daemon_set())
        try:
            async with fleet.operator():
                await create(fleet, "Ignore")
                await fleet.until_status("Complete")
            found = await fleet.get(KUBE_PROXY)
            assert found["metadata"]["resourceVersion"] == before["metadata"]["resourceVersion"]
        finally:
            await fleet.request("DELETE", KUBE_PROXY)


OWNER = {"apiVersion": "v1", "kind": "Node", "name": "gone", "uid": "0b6cbd5b-27a1-4c9e-8ad1-1d8c8cbb8d3a"}
"""Whoever may name an owner that is not there may have the garbage collector delete the object."""


@pytest.mark.parametrize(
    "patch",
    [
        {"metadata": {"labels": {"zone": "elsewhere"}}},
        {"metadata": {"labels": {"kept": None}}},
        {"metadata": {"annotations": {"note": "mine"}}},
        {"metadata": {"finalizers": ["example.org/mine"]}},
        {"metadata": {"ownerReferences": [OWNER]}},
        {"spec": {"unschedulable": True}},
        {"metadata": {"labels": {SERVICE_PROXY_LABEL: "agent", "zone": "elsewhere"}}},
    ],
)
async def test_the_operator_can_change_that_label_of_a_node_and_nothing_else(
    api: ApiServer, tmp_path: Path, patch: Json
) -> None:
    headers = {"Impersonate-User": OPERATOR, "Content-Type": "application/merge-patch+json"}
    async with bed(api, tmp_path) as fleet:
        await fleet.add_nodes("n0", labels={"kept": "yes"})

        async def patched(change: Json) -> tuple[int, str]:
            async with fleet.http.patch(f"{NODES}/n0", json=change, headers=headers) as response:
                return response.status, await response.text()

        async def in_force() -> bool:
            return (await patched(patch))[0] != 200 or (await patched({"metadata": {"labels": {"kept": "yes"}}}))[
                0
            ] != 200

        await eventually(in_force, "the policy is in force")
        assert (await patched({"metadata": {"labels": {SERVICE_PROXY_LABEL: "agent"}}}))[0] == 200
        status, words = await patched(patch)
        assert status == 403, words
        assert "must not change anything else of n0" in words
        assert (await patched({"metadata": {"labels": {SERVICE_PROXY_LABEL: None}}}))[0] == 200


CONTAINER = {"name": "kube-proxy", "image": "elsewhere:1"}


@pytest.mark.parametrize(
    "change",
    [
        {"spec": {"template": {"spec": {"containers": [CONTAINER]}}}},
        {"spec": {"template": {"spec": {"hostPID": True}}}},
        {"spec": {"template": {"spec": {"hostNetwork": None}}}},
        {"spec": {"template": {"spec": {"initContainers": [CONTAINER]}}}},
        {"spec": {"template": {"spec": {"affinity": {"podAffinity": {}}}}}},
        {"spec": {"template": {"metadata": {"labels": {"more": "labels"}}}}},
        {"spec": {"minReadySeconds": 7}},
        {"metadata": {"annotations": {"note": "mine"}}},
        {"metadata": {"labels": {"more": "labels"}}},
        {"metadata": {"finalizers": ["example.org/mine"]}},
        {"metadata": {"ownerReferences": [OWNER]}},
    ],
)
async def test_the_operator_can_change_the_affinity_of_a_daemon_set_and_nothing_else(
    api: ApiServer, tmp_path: Path, change: Json
) -> None:
    headers = {"Impersonate-User": OPERATOR, "Content-Type": "application/merge-patch+json"}
    async with bed(api, tmp_path) as fleet:
        await fleet.request("POST", DAEMON_SETS, daemon_set())
        try:

            async def patched(body: Json) -> tuple[int, str]:
                async with fleet.http.patch(KUBE_PROXY, json=body, headers=headers) as response:
                    return response.status, await response.text()

            async def in_force() -> bool:
                return (await patched({"spec": {"revisionHistoryLimit": 3}}))[0] == 403

            await eventually(in_force, "the policy is in force")
            required = {"nodeSelectorTerms": [LINUX]}
            affinity = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}}
            allowed = {
                "metadata": {"annotations": {BEFORE_ANNOTATION: "{}"}},
                "spec": {"updateStrategy": {"type": "OnDelete"}, "template": {"spec": {"affinity": affinity}}},
            }
            status, words = await patched(allowed)
            assert status == 200, words
            status, words = await patched(change)
            assert status == 403, words
            assert "must not change anything else" in words
        finally:
            await fleet.request("DELETE", KUBE_PROXY)
