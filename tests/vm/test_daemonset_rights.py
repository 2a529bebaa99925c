"""The agent switches modes with exactly the rights that its DaemonSet gives it, IPVS not yet loaded."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import ipvs_module
import yaml

HERE = Path(__file__).parent
DAEMON_SET = HERE.parents[1] / "manifests/base/agent/daemonset.yaml"
DEADLINE_SECONDS = 300.0
CAP_NET_ADMIN = 12  # include/uapi/linux/capability.h


def container() -> tuple[dict[str, Any], dict[str, str]]:
    """The agent's container, and the host's path by mount path of its volumes."""
    spec = yaml.safe_load(DAEMON_SET.read_text())["spec"]["template"]["spec"]
    paths = {volume["name"]: volume["hostPath"]["path"] for volume in spec["volumes"]}
    (only,) = spec["containers"]
    return only, {mount["mountPath"]: paths[mount["name"]] for mount in only["volumeMounts"]}


def script(state_dir: Path) -> str:
    """What a container runtime does, as far as it matters here; then the agent's part under setpriv."""
    agent, mounts = container()
    folders = {"/var/lib/proxymode": str(state_dir), "/proc/sys": "/proc/sys"}
    binds = [
        f"mkdir -p {target} && mount --bind {folders.get(source, source)} {target}"
        for target, source in mounts.items()
        if target != source or source in folders
    ]
    environment = " ".join(f"{entry['name']}={entry['value']}" for entry in agent["env"] if "value" in entry)
    added = ",".join(f"+{name.lower()}" for name in agent["securityContext"]["capabilities"]["add"])
    return "\n".join(
        [
            "set -e",
            "ip link set lo up",
            *binds,
            "mount --bind /proc/sys /proc/sys",
            "mount -o remount,bind,ro /proc/sys",
            "mount -o remount,bind,ro /",
            f"exec env {environment} PYTHONDONTWRITEBYTECODE=1"
            f" setpriv --bounding-set -all,{added} --inh-caps -all --no-new-privs"
            f" {shlex.quote(sys.executable)} {HERE / 'restricted_agent.py'} /var/lib/proxymode",
        ]
    )


def test_the_agent_switches_with_the_rights_of_its_daemonset(tmp_path: Path) -> None:
    ipvs_module.unload()
    done = subprocess.run(
        ["unshare", "--mount", "--net", "sh", "-c", script(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=DEADLINE_SECONDS,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "capabilities": 1 << CAP_NET_ADMIN,
        "writable": ["/var/lib/proxymode/probe"],
        "blocked": [],
        "observed": ["ipvs", "nftables", "ipvs", "none"],
    }
    assert (tmp_path / "probe").exists(), "what it keeps is on the host"
