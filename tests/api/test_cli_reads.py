"""What the plugin reads beside rollouts: the migration report from real objects, with view rights, and completion."""

from __future__ import annotations

import json
import shlex
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

import yaml
from cli_bed import NODES, Store, fleet_of, plugin, process, store_of
from proxymode_testbeds.polling import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from proxymode_testbeds.apiserver import ApiServer

GROUP = "rbac.authorization.k8s.io"
SERVICES = "/api/v1/namespaces/default/services"
DAEMON_SETS = "/apis/apps/v1/namespaces/kube-system/daemonsets"
CONFIG_MAPS = "/api/v1/namespaces/kube-system/configmaps"
VIEW_RULES = [
    {"apiGroups": [""], "resources": ["services", "configmaps"], "verbs": ["get", "list"]},
    {"apiGroups": ["apps"], "resources": ["daemonsets"], "verbs": ["get", "list"]},
]
"""What of Kubernetes' own role `view` the plugin needs."""

SERVICE: dict[str, Any] = {
    "metadata": {"name": "cli-web"},
    "spec": {
        "type": "NodePort",
        "clusterIP": "10.96.200.7",
        "ports": [{"name": "http", "port": 80, "nodePort": 30987, "protocol": "TCP"}],
    },
}
DAEMON_SET: dict[str, Any] = {
    "metadata": {"name": "calico-node"},
    "spec": {
        "selector": {"matchLabels": {"app": "calico"}},
        "template": {
            "metadata": {"labels": {"app": "calico"}},
            "spec": {"containers": [{"name": "calico-node", "image": "quay.io/calico/node:v3.31.0"}]},
        },
    },
}
KUBE_PROXY = {
    "metadata": {"name": "kube-proxy"},
    "data": {"config.conf": "kind: KubeProxyConfiguration\nmode: ipvs\nipvs:\n  scheduler: lc\n"},
}


@pytest.fixture
async def store(manifests: ApiServer) -> AsyncIterator[Store]:
    async with store_of(manifests) as found:
        yield found


@pytest.fixture
async def fleet(manifests: ApiServer, store: Store) -> AsyncIterator[ApiServer]:
    async with fleet_of(manifests, store) as found:
        yield found


@pytest.fixture
async def cluster(fleet: ApiServer, store: Store) -> AsyncIterator[ApiServer]:
    """The fleet, with a Service, Calico and a kube-proxy of ipvs with a scheduler."""
    made = ((SERVICES, SERVICE), (DAEMON_SETS, DAEMON_SET), (CONFIG_MAPS, KUBE_PROXY))
    try:
        for path, body in made:
            await store.create(path, body)
        yield fleet
    finally:
        for path, body in made:
            await store.delete(f"{path}/{body['metadata']['name']}")


@asynccontextmanager
async def person(fleet: ApiServer, store: Store, path: Path, name: str, *roles: str) -> AsyncIterator[str]:
    """The kubeconfig of somebody who has these ClusterRoles and no other right."""
    subject = {"kind": "User", "name": name, "apiGroup": GROUP}
    bindings = f"/apis/{GROUP}/v1/clusterrolebindings"
    _write_kubeconfig(fleet, path, name)
    try:
        for role in roles:
            reference = {"apiGroup": GROUP, "kind": "ClusterRole", "name": role}
            body = {"metadata": {"name": f"{name}-{role}"}, "roleRef": reference, "subjects": [subject]}
            await store.create(bindings, body)
        await eventually(lambda: _reads(fleet, path, *roles), "roles that take effect a moment after they are stored")
        yield str(path)
    finally:
        for role in roles:
            await store.delete(f"{bindings}/{name}-{role}")


def _write_kubeconfig(fleet: ApiServer, path: Path, name: str) -> None:
    config = yaml.safe_load(fleet.kubeconfig().read_text())
    config["users"][0]["user"] = {"token": fleet.add_token(name, [])}
    path.write_text(yaml.safe_dump(config))


async def _reads(fleet: ApiServer, kubeconfig: Path, *roles: str) -> bool:
    if (await plugin(fleet, "history", "--kubeconfig", str(kubeconfig))).code:
        return False
    return (
        "cli-view" not in roles
        or "Services"
        not in (await plugin(fleet, "migration", "-o", "json", "--kubeconfig", str(kubeconfig))).out.partition(
            '"notes"'
        )[2]
    )


@pytest.fixture
async def viewer(fleet: ApiServer, store: Store, tmp_path: Path) -> AsyncIterator[str]:
    """Somebody who has the shipped role for viewers, and of `view` what the plugin needs."""
    roles = f"/apis/{GROUP}/v1/clusterroles"
    try:
        await store.create(roles, {"metadata": {"name": "cli-view"}, "rules": VIEW_RULES})
        async with person(fleet, store, tmp_path / "viewer", "cli-viewer", "cli-view", "proxymode-viewer") as found:
            yield found
    finally:
        await store.delete(f"{roles}/cli-view")


# -- migration


async def test_migration_reads_the_clusters_own_objects(cluster: ApiServer) -> None:
    ran = await plugin(cluster, "migration", "-o", "json")
    found = json.loads(ran.out)
    assert (ran.code, found["to"], found["notes"]) == (0, "nftables", [])
    told = {(finding["rule"], finding["subject"]) for finding in found["findings"]}
    assert {
        ("node-port-addresses", "Service default/cli-web"),
        ("calico", "DaemonSet kube-system/calico-node"),
        ("scheduler", "Cluster"),
    } <= told
    assert all(finding["link"].startswith("https://") for finding in found["findings"])
    assert "warn Schedulers" in (await plugin(cluster, "migration")).lines


async def test_migration_ends_with_1_where_a_finding_blocks(cluster: ApiServer, store: Store) -> None:
    try:
        await store.create(DAEMON_SETS, DAEMON_SET | {"metadata": {"name": "kube-router"}})
        ran = await plugin(cluster, "migration", "--to=ipvs")
        assert ran.code == 1
        assert "block kube-router" in ran.lines
    finally:
        await store.delete(f"{DAEMON_SETS}/kube-router")


async def test_migration_looks_at_the_services_of_one_namespace(cluster: ApiServer) -> None:
    found = json.loads((await plugin(cluster, "migration", "--namespace", "kube-system", "-o", "json")).out)
    assert found["services"] == 0
    assert found["notes"] == ["namespace 'kube-system' has no Services, or is not there"]
    before = json.loads((await plugin(cluster, "--namespace=default", "migration", "-o", "json")).out)
    assert (before["services"] >= 1, before["notes"]) == (True, [])


async def test_a_plan_says_what_behaves_otherwise_afterwards(cluster: ApiServer) -> None:
    ran = await plugin(cluster, "plan")
    assert any(line.startswith("warn Schedulers Cluster") for line in ran.lines)
    found = json.loads((await plugin(cluster, "plan", "-o", "json")).out)
    assert found["name"] == "fleet"
    assert {finding["rule"] for finding in found["behaviour"]["findings"]} >= {"scheduler", "calico"}


async def test_migration_needs_no_proxymode_and_not_even_the_kinds(empty_api: ApiServer) -> None:
    ran = await plugin(empty_api, "migration", "-o", "json")
    found = json.loads(ran.out)
    assert (ran.code, found["to"], found["nodes"], ran.err) == (0, "nftables", 0, "")


async def test_status_and_version_answer_before_anything_is_installed(empty_api: ApiServer) -> None:
    async with store_of(empty_api) as store:
        for name in NODES:
            await store.create("/api/v1/nodes", {"metadata": {"name": name}})
        before = await plugin(empty_api, "status")
        await store.create(
            "/api/v1/namespaces/kube-system/configmaps",
            {"metadata": {"name": "kube-proxy"}, "data": {"config.conf": "mode: ipvs"}},
        )
    assert (before.code, before.err) == (0, "")
    assert "ipvs" not in before.out
    ran = await plugin(empty_api, "status")
    assert (ran.code, ran.err) == (0, "")
    assert "No agent reports on 3 nodes; kube-proxy is configured for ipvs." in ran.lines
    assert any(line.startswith("! 3 nodes: ipvs is deprecated since 1.35") for line in ran.lines)
    assert any(line.startswith("proxymode is not installed here") for line in ran.lines)
    found = json.loads((await plugin(empty_api, "status", "-o", "json")).out)
    assert (found["installed"], found["configured"], len(found["nodes"])) == (False, "ipvs", 3)
    ran = await plugin(empty_api, "version")
    assert (ran.code, ran.lines[-1]) == (0, "agents none")


# -- rights


async def test_view_rights_are_enough_to_read(cluster: ApiServer, viewer: str) -> None:
    for command in ("status", "plan", "history", "migration", "report", "version", "explain"):
        ran = await plugin(cluster, command, "--kubeconfig", viewer)
        assert (ran.code, ran.err) == (0, ""), command
    ran = await plugin(cluster, "migration", "--kubeconfig", viewer)
    assert any(line.startswith("! no right to list Nodes") for line in ran.lines)
    assert "warn Schedulers" in ran.lines


async def test_what_a_viewer_may_not_do_is_one_line(cluster: ApiServer, viewer: str) -> None:
    ran = await plugin(cluster, "pause", "--kubeconfig", viewer)
    assert (ran.code, ran.out) == (3, "")
    (line,) = ran.err.splitlines()
    assert line.startswith("error: no right to do this: ")
    assert "proxymodes" in line


async def test_the_role_for_who_steers_is_enough_to_steer(fleet: ApiServer, store: Store, tmp_path: Path) -> None:
    async with person(fleet, store, tmp_path / "steerer", "cli-steerer", "proxymode-steerer") as kubeconfig:
        for command in (("pause",), ("skip", "--node", "cli-3", "--reason", "broken NIC"), ("promote",), ("status",)):
            ran = await plugin(fleet, *command, "--kubeconfig", kubeconfig)
            assert (ran.code, ran.err) == (0, ""), command
        assert (await store.get("/apis/proxymode.io/v1alpha1/proxymodes/fleet"))["spec"]["rollout"]["paused"]


# -- report


async def test_report_as_html_markdown_and_json(fleet: ApiServer, store: Store, tmp_path: Path) -> None:
    event = {
        "metadata": {"name": "fleet.cli-report", "namespace": "default"},
        "eventTime": "2026-11-21T10:00:01.000000Z",
        "reportingController": "proxymode.io/operator",
        "reportingInstance": "test",
        "regarding": {"apiVersion": "proxymode.io/v1alpha1", "kind": "ProxyMode", "name": "fleet"},
        "type": "Normal",
        "reason": "RolloutStarted",
        "action": "Rollout",
        "note": "revision 3: 3 nodes to nftables",
    }
    try:
        await store.create("/apis/events.k8s.io/v1/namespaces/default/events", event)
        page = tmp_path / "report.html"
        ran = await plugin(fleet, "report", "-o", "html", "--file", str(page))
        assert (ran.code, ran.out, ran.err) == (0, "", "")
        assert "<svg" in page.read_text()
        assert "revision 3: 3 nodes to nftables" in page.read_text()
        found = json.loads((await plugin(fleet, "report", "fleet", "-o", "json")).out)
        assert found["verdict"].startswith("AwaitingApproval: 1 of 3 nodes run nftables (1 blocked).")
        assert [entry["reason"] for entry in found["happenings"]] == ["RolloutStarted"]
        assert (await plugin(fleet, "report")).out.startswith("# fleet: ipvs → nftables, revision 3\n")
    finally:
        await store.delete("/apis/events.k8s.io/v1/namespaces/default/events/fleet.cli-report")


async def test_a_report_that_cannot_be_written_is_one_line(fleet: ApiServer) -> None:
    ran = await plugin(fleet, "report", "--file", "/nonexistent/report.md")
    assert (ran.code, ran.err) == (
        2,
        "error: --file /nonexistent/report.md cannot be written: No such file or directory\n",
    )


# -- forms, explain, completion


@pytest.mark.parametrize(
    ("command", "column"), [(("status",), "HEARD"), (("plan",), "KUBELET"), (("preflight",), "CHECK")]
)
async def test_wide_has_more_columns(fleet: ApiServer, command: tuple[str, ...], column: str) -> None:
    assert column in (await plugin(fleet, *command, "-o", "wide")).out
    assert column not in (await plugin(fleet, *command)).out.replace("CHECKED", "").replace("CHECKS", "")


async def test_piped_tables_have_no_spaces_at_the_ends_of_lines(fleet: ApiServer) -> None:
    for command in ("status", "plan", "migration"):
        ran = await plugin(fleet, command)
        assert [line for line in ran.out.splitlines() if line != line.rstrip()] == []


async def test_what_steers_says_so_as_data_too(fleet: ApiServer) -> None:
    found = json.loads((await plugin(fleet, "pause", "-o", "json")).out)
    assert found == {
        "proxyMode": "fleet",
        "changed": True,
        "told": "paused: nothing new starts, nodes in mid-switch finish",
    }
    assert not yaml.safe_load((await plugin(fleet, "pause", "--output", "yaml")).out)["changed"]


async def test_a_watch_as_json_is_a_line_for_each_change(fleet: ApiServer, store: Store) -> None:
    await store.set_status("/apis/proxymode.io/v1alpha1/proxymodes/fleet", {"status": "Stopped"})
    ran = await plugin(fleet, "watch", "-o", "json")
    assert (ran.code, ran.err) == (1, "")
    (line,) = ran.out.splitlines()
    found = json.loads(line)
    assert (found["name"], found["status"], found["nodes"]["updated"]) == ("fleet", "Stopped", 1)
    assert "node cli-2: Blocked, kernel-version" in found["changes"]


async def test_help_has_the_exit_codes(fleet: ApiServer) -> None:
    out = " ".join((await plugin(fleet, "--help")).out.split())
    assert "0 done" in out
    assert "4 not found" in out


async def test_explain_asks_no_cluster(fleet: ApiServer) -> None:
    code, out, err = await process(fleet, "KUBECONFIG=/nonexistent kubectl-proxymode explain nodesblocked")
    assert (code, err) == (0, "")
    assert out.startswith("NodesBlocked   needs a look\n")
    ran = await plugin(fleet, "explain", "kernel-versoin")
    assert (ran.code, ran.err) == (4, "error: nothing is known of 'kernel-versoin'; did you mean kernel-version?\n")
    assert json.loads((await plugin(fleet, "explain", "Soaking", "-o", "json")).out)["code"] == "Soaking"


async def complete(api: ApiServer, *words: str) -> list[str]:
    """What bash offers with our script sourced, the last word not complete."""
    line = " ".join(["kubectl-proxymode", *words])
    array = " ".join(f"'{word}'" for word in ("kubectl-proxymode", *words))
    script = (
        f"source <(kubectl-proxymode completion bash); COMP_LINE='{line}'; COMP_WORDS=({array}); "
        f"COMP_CWORD={len(words)}; _kubectl_proxymode; printf '%s\\n' \"${{COMPREPLY[@]}}\""
    )
    code, out, err = await process(api, script)
    assert (code, err) == (0, "")
    return out.split()


async def test_bash_completes_commands_options_and_names(fleet: ApiServer) -> None:
    assert await complete(fleet, "p") == ["plan", "preflight", "pause", "promote"]
    assert "--kubeconfig" in await complete(fleet, "status", "--k")
    assert await complete(fleet, "plan", "") == ["fleet"]
    assert await complete(fleet, "node", "cli-") == ["cli-1", "cli-2", "cli-3"]
    assert await complete(fleet, "promote", "") == ["fleet"]
    assert await complete(fleet, "promote", "fleet", "--stage", "") == ["canary", "all"]
    assert await complete(fleet, "explain", "ip-vs-m") == ["ip-vs-module"]


ZSH = """
compdef() { : }
_describe() { print -rl -- ${(P)2} }
words=(kubectl-proxymode WORDS) CURRENT=COUNT
source <(kubectl-proxymode completion zsh)
_kubectl_proxymode
"""
"""zsh without its completion system, which wants a terminal: what our function would hand to it, printed."""
FISH = "kubectl-proxymode completion fish | source; complete --do-complete 'kubectl-proxymode WORDS'"


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("p", ["plan", "preflight", "pause", "promote"]),
        ("node cli-", ["cli-1", "cli-2", "cli-3"]),
        ("explain ip-vs-m", ["ip-vs-module"]),
    ],
)
async def test_zsh_and_fish_offer_the_same(fleet: ApiServer, words: str, offered: list[str]) -> None:
    script = ZSH.replace("WORDS", words).replace("COUNT", str(len(words.split()) + 1))
    code, out, err = await process(fleet, f"zsh -f -c {shlex.quote(script)}")
    assert (code, err) == (0, "")
    assert [line.partition(":")[0] for line in out.splitlines()] == offered
    code, out, err = await process(fleet, f"fish --no-config -c {shlex.quote(FISH.replace('WORDS', words))}")
    assert (code, err) == (0, "")
    assert {line.partition("\t")[0] for line in out.splitlines()} == set(offered)


async def test_kubectls_own_completion_is_answered(fleet: ApiServer) -> None:
    found = await fleet.kubectl("__complete", "proxymode", "node", "cli-")
    assert found.stdout.splitlines() == ["cli-1", "cli-2", "cli-3", ":4"]
    found = await fleet.kubectl("__complete", "proxymode", "status", "--o")
    assert found.stdout.splitlines()[0].startswith("--output\t")


async def test_completion_without_a_cluster_offers_nothing_and_says_nothing(fleet: ApiServer) -> None:
    found = await process(fleet, "KUBECONFIG=/nonexistent kubectl_complete-proxymode plan ''")
    assert found == (0, ":4\n", "")
