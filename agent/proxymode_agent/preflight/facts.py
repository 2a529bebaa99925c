"""Reads a node: kernel, modules, sysctls, conntrack, IPVS, interfaces, nf_tables, and who else handles Services.

Reads only. The one thing it writes is an nf_tables transaction that the kernel rolls back (`nftprobe`). What cannot be
read is left out of the facts, never guessed: the checks say so. Blocking calls; run it in a thread, in the network
namespace that the agent programs.

Not seen: processes of the host where the agent has a pid namespace of its own, as in its Pod; a live kube-proxy is then
noticed by its answer on /proxyMode or /healthz. One of these addresses may be configured otherwise, hardly both.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from proxymode_agent.dataplane.base import DataplaneError
from proxymode_agent.preflight.model import Facts, IpvsTable, KubeProxyFound
from proxymode_agent.preflight.modules import module_states
from proxymode_agent.preflight.nftprobe import NftView, view_nft
from proxymode_agent.takeover import legacy
from proxymode_agent.version import PRODUCT

if TYPE_CHECKING:
    from collections.abc import Mapping

SYSCTLS: Final = (
    "net.ipv4.ip_forward",
    "net.ipv4.vs.conntrack",
    "net.ipv6.conf.all.forwarding",
    "net.netfilter.nf_conntrack_max",
    "net.netfilter.nf_conntrack_tcp_loose",
)
BPF_PINS: Final = {
    "cilium-socketlb": "sys/fs/bpf/cilium/socketlb",
    "cilium-nodeport": "sys/fs/bpf/tc/globals/cilium_nodeport_neigh4",
    "cilium-nodeport6": "sys/fs/bpf/tc/globals/cilium_nodeport_neigh6",
}
KUBE_PROXY_METRICS: Final = ("127.0.0.1", 10249)
"""kube-proxy's --metrics-bind-address by default; it answers /proxyMode there."""
KUBE_PROXY_HEALTH: Final = ("127.0.0.1", 10256)
"""Its --healthz-bind-address by default, where load balancers of clouds look for it."""
ASK_SECONDS: Final = 1.0
_ANSWER_BYTES: Final = 1024


def collect(root: Path = Path("/")) -> Facts:
    """The facts of this node and of the calling thread's network namespace; takes milliseconds."""
    name = os.uname()
    nft = view_nft()
    return Facts(
        kernel=name.release,
        architecture=name.machine,
        modules=module_states(root, name.release),
        sysctls={
            name: value
            for name in SYSCTLS
            if (value := _number(root / f"proc/sys/{name.replace('.', '/')}")) is not None
        },
        conntrack_count=_number(root / "proc/sys/net/netfilter/nf_conntrack_count"),
        nft=nft.probe,
        ipvs_reachable=(root / "proc/thread-self/net/ip_vs").exists(),
        ipvs=ipvs_table(root / "proc/thread-self/net/ip_vs"),
        interfaces=frozenset(name for _, name in socket.if_nameindex()),
        bpf_pins=frozenset(name for name, path in BPF_PINS.items() if (root / path).exists()),
        nat_chains=nft.nat_chains,
        kube_proxy=_kube_proxy(root, nft),
        kubernetes_service=kubernetes_service(os.environ),
    )


def kubernetes_service(environment: Mapping[str, str]) -> str:
    """The address of the Service kubernetes, from what kubelet gives every Pod; empty: nothing. The ConfigMap
    api-server puts another one into KUBERNETES_SERVICE_HOST, but not into KUBERNETES_PORT (tcp://ADDRESS:PORT)."""
    return urlsplit(environment.get("KUBERNETES_PORT", "")).hostname or ""


def ipvs_table(path: Path) -> IpvsTable:
    """Virtual servers by scheduler and real servers by forwarding method, from /proc/net/ip_vs (ip_vs_ctl.c)."""
    schedulers: Counter[str] = Counter()
    forwarding: Counter[str] = Counter()
    try:
        with path.open() as file:
            for line in file:
                words = line.split()
                if line.startswith(("TCP ", "UDP ", "SCTP ", "FWM ")) and len(words) >= 3:
                    schedulers[words[2]] += 1
                elif line.startswith("  -> ") and len(words) >= 4 and words[3].lstrip("-").isdigit():
                    forwarding[words[2]] += 1
    except OSError:
        return IpvsTable()
    return IpvsTable(dict(schedulers), dict(forwarding))


def _kube_proxy(root: Path, nft: NftView) -> KubeProxyFound:
    mode = proxy_mode(*KUBE_PROXY_METRICS)
    running = ""
    if pid := kube_proxy_process(root):
        running = f"process {pid}"
    elif mode:
        running = "answers on {}:{}".format(*KUBE_PROXY_METRICS)
    elif proxy_health(*KUBE_PROXY_HEALTH):
        running = "answers on {}:{}".format(*KUBE_PROXY_HEALTH)
    return KubeProxyFound(running=running, mode=mode, rules=nft.kube_proxy_rules + _legacy_rules())


def _legacy_rules() -> tuple[str, ...]:
    try:
        return ("iptables-legacy nat",) if legacy.look().serves else ()
    except (OSError, DataplaneError):
        return ()  # the rights for it are those of nf_tables, whose lack is found by the checks


def kube_proxy_runs() -> bool:
    """Whether a live kube-proxy is noticed on this node."""
    answers = proxy_mode(*KUBE_PROXY_METRICS) or proxy_health(*KUBE_PROXY_HEALTH)
    return bool(answers) or kube_proxy_process(Path("/")) is not None


def proxy_mode(host: str, port: int) -> str:
    """What a kube-proxy on host:port calls its mode; empty when none answers, or an agent of ours."""
    status, body = _asked(host, port, "/proxyMode")
    answer = body.decode("ascii", errors="replace").strip()
    return answer if status == 200 and len(answer) < 64 and answer.isalpha() else ""


def proxy_health(host: str, port: int) -> bool:
    """Whether somebody on host:port tells of his health as kube-proxy does (pkg/proxy/healthcheck), well or not; false
    for an agent of ours."""
    status, body = _asked(host, port, "/healthz")
    try:
        answer = json.loads(body)
    except ValueError:
        return False
    return status in (200, 503) and isinstance(answer, dict) and {"lastUpdated", "currentTime"} <= answer.keys()


def _asked(host: str, port: int, path: str) -> tuple[int, bytes]:
    """Status and body, or its beginning; 0 and nothing when nobody answers, or an agent of ours."""
    connection = http.client.HTTPConnection(host, port, timeout=ASK_SECONDS)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        body = response.read(_ANSWER_BYTES)
        ours = (response.getheader("Server") or "").startswith(PRODUCT)
    except (OSError, http.client.HTTPException):
        return 0, b""
    finally:
        connection.close()
    return (0, b"") if ours else (response.status, body)


def kube_proxy_process(root: Path) -> int | None:
    """A process called kube-proxy in this network namespace; others belong to other nodes (kind, tests)."""
    try:
        own = (root / "proc/thread-self/ns/net").stat().st_ino
    except OSError:
        return None
    for entry in (root / "proc").iterdir():
        if entry.name.isdigit():
            try:
                # Bytes: anybody may call a process of theirs by what is no text.
                if (entry / "comm").read_bytes() == b"kube-proxy\n" and (entry / "ns/net").stat().st_ino == own:
                    return int(entry.name)
            except OSError:
                continue  # ended meanwhile, or not ours to look at
    return None


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None
