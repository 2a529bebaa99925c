"""`kubectl proxymode` as a person types it, against a real API server: every command, every kind of mistake."""

from __future__ import annotations

import asyncio
import copy
import json
import os
import pty
import re
from typing import TYPE_CHECKING, Any

import pytest

import yaml
from cli_bed import (
    BIN,
    DEADLINE_SECONDS,
    FLEET,
    NODE_PROXY_MODES,
    PROXY_MODE,
    PROXY_MODES,
    STATUS,
    Store,
    fleet_of,
    plugin,
    process,
    store_of,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from proxymode_testbeds.apiserver import ApiServer


@pytest.fixture
async def store(manifests: ApiServer) -> AsyncIterator[Store]:
    async with store_of(manifests) as found:
        yield found


@pytest.fixture
async def fleet(manifests: ApiServer, store: Store) -> AsyncIterator[ApiServer]:
    async with fleet_of(manifests, store) as found:
        yield found


# -- see


async def test_status(fleet: ApiServer) -> None:
    ran = await plugin(fleet, "status")
    assert ran.code == 0
    assert "fleet → nftables AwaitingApproval revision 3" in ran.lines
    assert any("2 nodes: ipvs is deprecated since 1.35" in line for line in ran.lines)
    assert "Blocked: cli-2" in ran.lines


async def test_the_plugin_is_kubectls(fleet: ApiServer) -> None:
    ran = await fleet.kubectl("proxymode", "plan", "fleet")
    assert re.search(r"cli-2 +– +ipvs +→ +nftables +Blocked +all +kernel-version", ran.stdout)


async def test_plan_names_blockers_with_remedies(fleet: ApiServer) -> None:
    ran = await plugin(fleet, "plan")
    assert ran.code == 0
    assert "2 nodes of 3 are to change; 1 blocked." in ran.lines
    assert "block kernel-version on cli-2" in ran.lines
    assert "→ Upgrade the node's kernel." in ran.lines


async def test_preflight_ends_with_1_where_a_check_blocks(fleet: ApiServer) -> None:
    assert (await plugin(fleet, "preflight")).code == 1
    blocked = await plugin(fleet, "preflight", "cli-2")
    assert blocked.code == 1
    assert "kernel-version block Linux 5.10.0; nftables mode needs 5.13 or newer" in blocked.lines
    assert (await plugin(fleet, "preflight", "cli-1")).code == 0


async def test_node(fleet: ApiServer) -> None:
    ran = await plugin(fleet, "node", "cli-2")
    assert ran.code == 0
    assert "cli-2 ipvs → nftables Blocked removed upstream in 1.43" in ran.lines


async def test_version(fleet: ApiServer) -> None:
    ran = await plugin(fleet, "version")
    assert ran.code == 0
    assert re.fullmatch(r"plugin \d+\.\d+\.\d+", ran.lines[0])
    assert ran.lines[1].startswith("cluster v1.")
    assert ran.lines[2] == "agents 0.1.0"


@pytest.mark.parametrize("command", [("status",), ("plan",), ("preflight",), ("node", "cli-1"), ("version",)])
async def test_every_command_that_reads_writes_json_and_yaml(fleet: ApiServer, command: tuple[str, ...]) -> None:
    as_json = json.loads((await plugin(fleet, *command, "-o", "json")).out)
    as_yaml = yaml.safe_load((await plugin(fleet, *command, "--output=yaml")).out)
    if isinstance(as_json, dict):
        as_json.pop("at", None)
        as_yaml.pop("at", None)
    assert as_json
    assert as_json == as_yaml


# -- steer


async def test_pause_and_resume(fleet: ApiServer, store: Store) -> None:
    assert (await plugin(fleet, "pause")).out == (
        "proxymode/fleet paused: nothing new starts, nodes in mid-switch finish\n"
    )
    assert (await store.get(FLEET))["spec"]["rollout"]["paused"] is True
    assert (await plugin(fleet, "pause", "fleet")).out == "proxymode/fleet is paused already\n"
    assert (await plugin(fleet, "resume")).code == 0
    assert (await store.get(FLEET))["spec"]["rollout"]["paused"] is False


async def test_retry_skip_and_unskip(fleet: ApiServer, store: Store) -> None:
    ran = await plugin(fleet, "retry")
    assert (ran.code, ran.err) == (2, "error: no node of fleet has failed\n")
    await store.set_status(FLEET, {"nodes": {"failed": 1}})
    assert (await plugin(fleet, "retry", "--node", "cli-1")).out == "proxymode/fleet cli-1, where failed, tries again\n"
    assert (await store.get(FLEET))["metadata"]["annotations"]["proxymode.io/retry"] == "cli-1"

    node = f"{NODE_PROXY_MODES}/cli-3"
    assert (await plugin(fleet, "skip", "--node", "cli-3")).code == 2, "a reason is asked for"
    ran = await plugin(fleet, "skip", "fleet", "--node", "cli-3", "--reason", "broken NIC")
    assert ran.out == "proxymode/fleet goes round cli-3: broken NIC\n"
    assert (await store.get(node))["metadata"]["annotations"]["proxymode.io/skip"] == "broken NIC"
    assert any("skipped: broken NIC" in line for line in (await plugin(fleet, "plan")).lines)
    assert (await plugin(fleet, "unskip", "--node", "cli-3")).out == "proxymode/fleet includes cli-3 again\n"
    assert "annotations" not in (await store.get(node))["metadata"]


async def test_history_as_a_table_and_as_data(fleet: ApiServer, store: Store) -> None:
    assert (await plugin(fleet, "history")).out == "No rollout is over yet.\n"
    record = {
        "revision": 2,
        "mode": "nftables",
        "fromMode": "ipvs",
        "startedAt": "2026-11-21T09:00:00Z",
        "endedAt": "2026-11-21T09:10:00Z",
        "outcome": "RolledBack",
        "changedBy": "kubectl-proxymode",
    }
    await store.set_status(FLEET, {"history": [record]})
    ran = await plugin(fleet, "history", "fleet")
    assert len(ran.lines) == 2, ran.out
    line = ran.lines[1]
    assert line.startswith("2 ipvs nftables RolledBack 0 0 updated 10m ")
    (found,) = json.loads((await plugin(fleet, "history", "-o", "json")).out)
    assert record.items() <= found.items()


async def test_promote_approves_the_stage_that_waits(fleet: ApiServer, store: Store) -> None:
    assert (await plugin(fleet, "promote")).out == "proxymode/fleet stage all approved\n"
    assert (await store.get(FLEET))["metadata"]["annotations"]["proxymode.io/promote"] == "all"


async def test_promote_a_stage_by_name(fleet: ApiServer, store: Store) -> None:
    assert (await plugin(fleet, "promote", "fleet", "--stage", "canary")).code == 0
    assert (await store.get(FLEET))["metadata"]["annotations"]["proxymode.io/promote"] == "canary"


async def test_abort_is_about_this_revision(fleet: ApiServer, store: Store) -> None:
    assert (await plugin(fleet, "abort")).code == 0
    assert (await store.get(FLEET))["metadata"]["annotations"]["proxymode.io/abort"] == "3"


async def test_undo_goes_back_and_passes_the_servers_warning_on(fleet: ApiServer, store: Store) -> None:
    ran = await plugin(fleet, "undo")
    assert ran.out == "proxymode/fleet mode set back from nftables to ipvs, the last stage first\n"
    assert "deprecated since 1.35" in ran.err
    assert (await store.get(FLEET))["spec"]["mode"] == "ipvs"
    assert (await store.get(FLEET))["metadata"]["annotations"]["proxymode.io/undo"] == "Reverse"
    assert (await plugin(fleet, "undo", "--at-once")).err == ""
    assert (await store.get(FLEET))["metadata"]["annotations"]["proxymode.io/undo"] == "AtOnce"
    assert (await store.get(FLEET))["spec"]["mode"] == "nftables"


async def test_our_writes_leave_the_users_own_fields_alone(fleet: ApiServer, store: Store) -> None:
    before = await store.get(FLEET)
    await plugin(fleet, "pause")
    await plugin(fleet, "resume")
    after = await store.get(FLEET)
    wanted = copy.deepcopy(before["spec"])
    wanted["rollout"]["paused"] = False
    assert after["spec"] == wanted


# -- watch


async def test_watch_follows_to_the_end(fleet: ApiServer, store: Store) -> None:
    watching = await asyncio.create_subprocess_exec(
        *(str(BIN / "kubectl-proxymode"), "watch", "fleet", "--interval=0.2"),
        env={"PATH": "/usr/bin:/bin", "KUBECONFIG": str(fleet.kubeconfig()), "PYTHONUNBUFFERED": "1"},
        stdout=asyncio.subprocess.PIPE,
    )
    assert watching.stdout is not None
    try:
        async with asyncio.timeout(DEADLINE_SECONDS):
            first = (await watching.stdout.readline()).decode()
            assert re.fullmatch(r"[\d:]{8} fleet revision 3 to nftables: AwaitingApproval, 1/3\n", first)
            done = STATUS | {"status": "Complete", "nodes": {"desired": 3, "updated": 3, "progress": "3/3"}}
            await store.set_status(FLEET, done)
            rest = (await watching.stdout.read()).decode()
            assert await watching.wait() == 0
    finally:
        if watching.returncode is None:
            watching.kill()
            await watching.wait()
    assert "fleet revision 3 to nftables: Complete, 3/3" in rest
    assert "node cli-2: Blocked, kernel-version" in rest


async def test_watch_draws_a_tree_on_a_terminal(fleet: ApiServer, store: Store) -> None:
    terminal, screen = pty.openpty()
    try:
        await store.set_status(FLEET, STATUS | {"status": "Complete"})
        watching = await asyncio.create_subprocess_exec(
            *(str(BIN / "kubectl-proxymode"), "watch"),
            env={"PATH": "/usr/bin:/bin", "KUBECONFIG": str(fleet.kubeconfig()), "TERM": "xterm", "COLUMNS": "100"},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=screen,
        )
        async with asyncio.timeout(DEADLINE_SECONDS):
            assert await watching.wait() == 0
        drawn = os.read(terminal, 65536).decode()
    finally:
        os.close(screen)
        os.close(terminal)
    assert "├── " in drawn
    assert re.search(r"canary.*━", drawn)
    assert "Blocked" in drawn


async def test_watch_ends_with_1_when_the_rollout_has_stopped(fleet: ApiServer, store: Store) -> None:
    await store.set_status(FLEET, {"status": "Stopped"})
    ran = await plugin(fleet, "watch")
    assert ran.code == 1
    assert "Stopped" in ran.out


# -- mistakes: one line, the right exit code


@pytest.mark.parametrize(
    ("command", "code", "text"),
    [
        (("plan", "flet"), 4, "ProxyMode 'flet' not found; there is fleet"),
        (("node", "cli-9"), 4, "node 'cli-9' not found"),
        (("preflight", "cli-9"), 4, "node 'cli-9' not found"),
        (("pause", "flet"), 4, "ProxyMode 'flet' not found; there is fleet"),
        (("promote", "--stage", "zone-z"), 4, "fleet has no stage 'zone-z'; it has canary, all"),
        (("promote", "--stage", "canary", "--all"), 2, "give --stage or --all, not both"),
        (("status", "--context", "elsewhere"), 3, "elsewhere"),
        (("status", "--kubeconfig", "/nonexistent/config"), 3, "/nonexistent/config"),
    ],
)
async def test_a_mistake_is_one_line(fleet: ApiServer, command: tuple[str, ...], code: int, text: str) -> None:
    ran = await plugin(fleet, *command)
    assert (ran.code, ran.out) == (code, "")
    (line,) = ran.err.splitlines()
    assert line.startswith("error: ")
    assert text in line


async def test_several_proxymodes_must_be_told_apart(fleet: ApiServer, store: Store) -> None:
    await store.create(PROXY_MODES, PROXY_MODE | {"metadata": {"name": "second"}})
    ran = await plugin(fleet, "pause")
    assert (ran.code, ran.err) == (2, "error: which ProxyMode? name one of fleet, second\n")
    assert (await plugin(fleet, "pause", "second")).code == 0
    assert not (await store.get(FLEET))["spec"]["rollout"].get("paused")
    assert (await store.get(f"{PROXY_MODES}/second"))["spec"]["rollout"]["paused"]


async def test_a_cluster_without_our_kinds(empty_api: ApiServer) -> None:
    ran = await plugin(empty_api, "plan")
    assert ran.code == 3
    assert ran.err == "error: this cluster does not know ProxyModes: kubectl apply -k manifests/ installs them\n"


async def test_credentials_that_are_not_accepted(fleet: ApiServer, tmp_path: Path) -> None:
    config = yaml.safe_load(fleet.kubeconfig().read_text())
    config["users"][0]["user"] = {"token": "wrong"}
    path = tmp_path / "config"
    path.write_text(yaml.safe_dump(config))
    ran = await plugin(fleet, "status", "--kubeconfig", str(path))
    assert ran.code == 3
    assert ran.err == "error: the cluster does not accept these credentials (401 Unauthorized)\n"


@pytest.mark.parametrize(
    ("part", "change", "text"),
    [
        ("clusters", {"cluster": {"server": "nowhere"}}, "server 'nowhere' is no address: write https://HOST:PORT"),
        (
            "clusters",
            {"cluster": {"server": "https://h:1", "certificate-authority": "/nonexistent/ca"}},
            "/nonexistent/ca",
        ),
        (
            "users",
            {
                "user": {
                    "exec": {
                        "apiVersion": "client.authentication.k8s.io/v1",
                        "command": "/nonexistent/login",
                        "interactiveMode": "Never",
                    }
                }
            },
            "its credential plugin fails: [Errno 2] No such file or directory: '/nonexistent/login'",
        ),
        ("contexts", [], "cannot be used"),
        ("", [], "cannot be used"),
    ],
)
async def test_a_kubeconfig_that_is_wrong_is_one_line(
    fleet: ApiServer, tmp_path: Path, part: str, change: Any, text: str
) -> None:
    config = yaml.safe_load(fleet.kubeconfig().read_text())
    if isinstance(change, dict):
        config[part][0] |= change
    elif part:
        config[part] = change
    else:
        config = change
    path = tmp_path / "config"
    path.write_text(yaml.safe_dump(config))
    code, out, err = await process(fleet, f"kubectl-proxymode status --kubeconfig {path}")
    assert (code, out) == (3, "")
    (line,) = err.splitlines()
    assert line.startswith(f"error: kubeconfig {path}")
    assert text in line


async def test_a_server_that_is_not_there(fleet: ApiServer, tmp_path: Path) -> None:
    config = yaml.safe_load(fleet.kubeconfig().read_text())
    config["clusters"][0]["cluster"]["server"] = "https://127.0.0.1:1"
    path = tmp_path / "config"
    path.write_text(yaml.safe_dump(config))
    ran = await plugin(fleet, "status", "--kubeconfig", str(path))
    assert ran.code == 3
    (line,) = ran.err.splitlines()
    assert line.startswith("error: https://127.0.0.1:1 cannot be reached: ")
    assert "refused" in line


async def test_a_server_whose_certificate_is_not_trusted(fleet: ApiServer, tmp_path: Path) -> None:
    config = yaml.safe_load(fleet.kubeconfig().read_text())
    config["clusters"][0]["cluster"] = {"server": fleet.url}
    path = tmp_path / "config"
    path.write_text(yaml.safe_dump(config))
    ran = await plugin(fleet, "status", "--kubeconfig", str(path))
    assert ran.code == 3
    (line,) = ran.err.splitlines()
    assert line.startswith(f"error: {fleet.url} is not trusted: ")
    assert "CERTIFICATE_VERIFY_FAILED" in line


async def test_no_kubeconfig_at_all(fleet: ApiServer) -> None:
    code, out, err = await process(fleet, "HOME=/nonexistent KUBECONFIG= kubectl-proxymode status")
    assert (code, out) == (3, "")
    (line,) = err.splitlines()
    assert line.startswith("error: kubeconfig ~/.kube/config cannot be used: ")


async def test_a_reader_who_does_not_read_to_the_end_is_no_error(fleet: ApiServer) -> None:
    _, out, err = await process(fleet, "kubectl-proxymode status | head -1")
    assert out.startswith("Kubernetes v")
    assert err == ""


async def test_a_mistake_in_a_real_process_shows_no_traceback(fleet: ApiServer) -> None:
    assert await process(fleet, "kubectl-proxymode plan flet") == (
        4,
        "",
        "error: ProxyMode 'flet' not found; there is fleet\n",
    )
