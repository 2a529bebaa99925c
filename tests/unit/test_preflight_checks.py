"""Preflight checks: a node written down, a verdict expected."""

from __future__ import annotations

import re
from dataclasses import replace
from ipaddress import ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxymode_agent.preflight.checks import CHECKS, run
from proxymode_agent.preflight.facts import kubernetes_service
from proxymode_agent.preflight.kernel import kernel_release
from proxymode_agent.preflight.model import Facts, IpvsTable, KubeProxyFound, ModuleState, NatChain, NftProbe
from proxymode_agent.services.model import DataplaneConfig, PodInterface, PodNetworks
from proxymode_api.modes import ConnectionPolicy, KubeProxyPolicy, Mode
from proxymode_api.nodeproxymode import PreflightResult, Verdict

HEALTHY = Facts(
    kernel="6.1.0-41-amd64",
    architecture="x86_64",
    modules={
        "nf_conntrack_netlink": ModuleState.BUILTIN,
        "ip_vs": ModuleState.LOADABLE,
        "ip_vs_rr": ModuleState.LOADABLE,
        "dummy": ModuleState.LOADABLE,
    },
    sysctls={
        "net.netfilter.nf_conntrack_max": 262144,
        "net.ipv4.ip_forward": 1,
        "net.ipv6.conf.all.forwarding": 1,
        "net.ipv4.vs.conntrack": 1,
    },
    conntrack_count=1000,
    ipvs=IpvsTable(schedulers={"rr": 12}, forwarding={"Masq": 30}),
)


CONNTRACK_100 = {"net.netfilter.nf_conntrack_max": 100}


def check(name: str, mode: Mode, facts: Facts, config: DataplaneConfig | None = None) -> PreflightResult:
    (result,) = [result for result in run(mode, facts, config or DataplaneConfig()) if result.id == name]
    return result


@pytest.mark.parametrize("mode", Mode)
def test_a_healthy_node_passes_everything(mode: Mode) -> None:
    results = run(mode, HEALTHY, DataplaneConfig())
    assert {result.verdict for result in results} == {Verdict.PASS}
    assert all(result.found and not result.remedy for result in results)


def test_every_check_is_in_the_table_once_and_says_what_and_why() -> None:
    ids = [entry.id for entry in CHECKS]
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch(r"[a-z]+(-[a-z]+)*", name) for name in ids)
    assert all(entry.modes and entry.what.endswith(".") and entry.why.endswith(".") for entry in CHECKS)


BY_SERVICE = {"api_server": "10.96.0.1:443", "kubernetes_service": "10.96.0.1"}
BY_SERVICE6 = {"api_server": "[fd96::1]:443", "kubernetes_service": "fd96::1"}
BY_ADDRESS = {"api_server": "192.0.2.9:6443", "kubernetes_service": "10.96.0.1"}
RUNNING = {"kube_proxy": KubeProxyFound(running="answers on 127.0.0.1:10249", mode="ipvs")}


@pytest.mark.parametrize(
    ("facts", "policy", "verdict"),
    [
        (BY_SERVICE | RUNNING, KubeProxyPolicy.TAKE_OVER, Verdict.BLOCK),
        (BY_SERVICE6 | RUNNING, KubeProxyPolicy.TAKE_OVER, Verdict.BLOCK),
        (BY_SERVICE | RUNNING, KubeProxyPolicy.HAND_BACK, Verdict.WARN),
        (BY_SERVICE, KubeProxyPolicy.TAKE_OVER, Verdict.WARN),
        (BY_ADDRESS | RUNNING, KubeProxyPolicy.TAKE_OVER, Verdict.PASS),
        ({"api_server": "10.96.0.1:443"} | RUNNING, KubeProxyPolicy.TAKE_OVER, Verdict.PASS),
    ],
    ids=["takes over", "IPv6", "hands back", "is the agent's already", "own address", "no Pod"],
)
def test_no_node_leaves_kube_proxy_for_an_agent_that_needs_it(
    facts: dict[str, Any], policy: KubeProxyPolicy, verdict: Verdict
) -> None:
    found = check("api-server-address", Mode.NFTABLES, replace(HEALTHY, **facts), DataplaneConfig(kube_proxy=policy))
    assert found.verdict is verdict
    assert ("KUBERNETES_SERVICE_HOST" in found.remedy) is (verdict is not Verdict.PASS)


def test_the_service_kubernetes_is_known_by_what_the_configmap_does_not_set() -> None:
    assert kubernetes_service({"KUBERNETES_SERVICE_HOST": "192.0.2.9", "KUBERNETES_PORT": "tcp://10.96.0.1:443"}) == (
        "10.96.0.1"
    )
    assert kubernetes_service({"KUBERNETES_PORT": "tcp://[fd96::1]:443"}) == "fd96::1"
    assert kubernetes_service({}) == ""


@pytest.mark.parametrize(
    ("pods", "verdict"),
    [
        (PodNetworks((ip_network("10.244.0.0/16"), ip_network("fd44::/48"))), Verdict.PASS),
        (PodNetworks((ip_network("10.244.0.0/16"),)), Verdict.WARN),
        (PodNetworks((ip_network("192.168.0.0/16"), ip_network("fd44::/48"))), Verdict.WARN),
        (PodNetworks((ip_network("10.244.3.0/25"), ip_network("fd44::/48"))), Verdict.WARN),
        (PodInterface("cni0"), Verdict.PASS),
        (None, Verdict.PASS),
    ],
)
def test_pods_are_not_masqueraded_unawares(pods: PodNetworks | PodInterface | None, verdict: Verdict) -> None:
    node = replace(HEALTHY, pod_networks=(ip_network("10.244.3.0/24"), ip_network("fd44:0:0:3::/64")))
    found = check("pod-networks", Mode.NFTABLES, node, DataplaneConfig(pods=pods))
    assert found.verdict is verdict


SEEN = [
    # check, mode, what differs from the healthy node, verdict, what the text must contain
    ("kernel-version", Mode.NFTABLES, {"kernel": "5.10.0-34-amd64"}, Verdict.BLOCK, "5.13"),
    ("kernel-version", Mode.NFTABLES, {"kernel": "5.13.0"}, Verdict.PASS, "5.13.0"),
    ("kernel-version", Mode.IPVS, {"kernel": "5.10.0-34-amd64"}, Verdict.PASS, "5.10"),
    ("kernel-version", Mode.IPVS, {"kernel": "5.9.0"}, Verdict.PASS, "5.9.0"),
    ("kernel-version", Mode.IPVS, {"kernel": "5.8.18"}, Verdict.WARN, "before 5.9"),
    ("kernel-version", Mode.NFTABLES, {"kernel": "unknown"}, Verdict.WARN, "'unknown'"),
    ("nft-expressions", Mode.NFTABLES, {"nft": NftProbe(missing=frozenset({"numgen"}))}, Verdict.BLOCK, "nft_numgen"),
    ("nft-expressions", Mode.IPVS, {"nft": NftProbe(missing=frozenset({"numgen"}))}, Verdict.PASS, "accepted"),
    ("nft-expressions", Mode.IPVS, {"nft": NftProbe(missing=frozenset({"masq"}))}, Verdict.BLOCK, "nft_masq"),
    ("nft-expressions", Mode.NFTABLES, {"nft": NftProbe(error="Operation not permitted")}, Verdict.BLOCK, "permitted"),
    ("ip-vs-module", Mode.IPVS, {"modules": {"ip_vs": ModuleState.MISSING}}, Verdict.BLOCK, "ip_vs"),
    ("ip-vs-module", Mode.IPVS, {"modules": {}, "ipvs_reachable": True}, Verdict.PASS, "netlink"),
    ("ip-vs-module", Mode.IPVS, {"modules": {"ip_vs": ModuleState.UNKNOWN}}, Verdict.WARN, "modprobe ip_vs"),
    ("dummy-device", Mode.IPVS, {"modules": {"dummy": ModuleState.MISSING}}, Verdict.BLOCK, "dummy"),
    ("dummy-device", Mode.IPVS, {"modules": {}, "interfaces": frozenset({"kube-ipvs0"})}, Verdict.PASS, "kube-ipvs0"),
    ("conntrack-headroom", Mode.NFTABLES, {"conntrack_count": 262144}, Verdict.BLOCK, "nf_conntrack_max"),
    ("conntrack-headroom", Mode.IPVS, {"conntrack_count": 220000}, Verdict.WARN, "84%"),
    ("conntrack-headroom", Mode.IPVS, {"conntrack_count": None}, Verdict.WARN, "cannot be read"),
    ("conntrack-headroom", Mode.IPVS, {"conntrack_count": 79, "sysctls": CONNTRACK_100}, Verdict.PASS, "79 of 100"),
    ("conntrack-headroom", Mode.IPVS, {"conntrack_count": 80, "sysctls": CONNTRACK_100}, Verdict.WARN, "to 200."),
    ("conntrack-headroom", Mode.IPVS, {"conntrack_count": 94, "sysctls": CONNTRACK_100}, Verdict.WARN, "94%"),
    ("conntrack-headroom", Mode.IPVS, {"conntrack_count": 95, "sysctls": CONNTRACK_100}, Verdict.BLOCK, "95%"),
    (
        "conntrack-headroom",
        Mode.IPVS,
        {"conntrack_count": 95, "sysctls": {"net.netfilter.nf_conntrack_max": 0}},
        Verdict.PASS,
        "no limit",
    ),
    ("ip-forward", Mode.NFTABLES, {"sysctls": {"net.ipv4.ip_forward": 0}}, Verdict.WARN, "net.ipv4.ip_forward=1"),
    (
        "kube-proxy-present",
        Mode.NFTABLES,
        {"kube_proxy": KubeProxyFound(running="process 812", mode="ipvs")},
        Verdict.BLOCK,
        "in ipvs mode (process 812)",
    ),
    (
        "kube-proxy-present",
        Mode.IPVS,
        {"kube_proxy": KubeProxyFound(rules=("table ip kube-proxy",))},
        Verdict.WARN,
        "kube-proxy --cleanup",
    ),
    ("foreign-dataplane", Mode.NFTABLES, {"interfaces": frozenset({"kube-dummy-if"})}, Verdict.BLOCK, "kube-router"),
    ("foreign-dataplane", Mode.NFTABLES, {"interfaces": frozenset({"bpfin.cali"})}, Verdict.BLOCK, "Calico"),
    ("foreign-dataplane", Mode.NFTABLES, {"interfaces": frozenset({"cilium_host"})}, Verdict.WARN, "Cilium"),
    ("foreign-dataplane", Mode.IPVS, {"bpf_pins": frozenset({"cilium-socketlb"})}, Verdict.BLOCK, "socket load"),
    (
        "foreign-dataplane",
        Mode.IPVS,
        {"bpf_pins": frozenset({"cilium-nodeport"})},
        Verdict.BLOCK,
        "replaces kube-proxy",
    ),
    (
        "foreign-nat",
        Mode.NFTABLES,
        {"nat_chains": (NatChain("ip", "mesh", "early", "prerouting", -101),)},
        Verdict.WARN,
        "ip mesh early (prerouting, priority -101)",
    ),
    (
        "foreign-nat",
        Mode.NFTABLES,
        {"nat_chains": (NatChain("ip", "nat", "PREROUTING", "prerouting", -100),)},
        Verdict.PASS,
        "ip nat",
    ),
    (
        "ipvs-conntrack",
        Mode.NFTABLES,
        {"sysctls": {"net.ipv4.vs.conntrack": 0}},
        Verdict.WARN,
        "net.ipv4.vs.conntrack=1",
    ),
    (
        "conntrack-netlink",
        Mode.NFTABLES,
        {"modules": {"nf_conntrack_netlink": ModuleState.MISSING}},
        Verdict.BLOCK,
        "nf",
    ),
    (
        "conntrack-loose",
        Mode.NFTABLES,
        {"sysctls": {"net.netfilter.nf_conntrack_tcp_loose": 0}},
        Verdict.WARN,
        "loose=1",
    ),
    (
        "conntrack-loose",
        Mode.NFTABLES,
        {"sysctls": {"net.netfilter.nf_conntrack_tcp_loose": 0}, "ipvs": IpvsTable()},
        Verdict.PASS,
        "no packet",
    ),
    ("ipvs-forwarding", Mode.NFTABLES, {"ipvs": IpvsTable({"rr": 1}, {"Route": 2})}, Verdict.WARN, "2 by Route"),
    ("ipvs-scheduling", Mode.NFTABLES, {"ipvs": IpvsTable({"rr": 9, "lc": 3}, {})}, Verdict.WARN, "3 virtual servers"),
]


@pytest.mark.parametrize(("name", "mode", "differs", "verdict", "text"), SEEN)
def test_what_is_found_decides_the_verdict(
    name: str, mode: Mode, differs: dict[str, object], verdict: Verdict, text: str
) -> None:
    result = check(name, mode, replace(HEALTHY, **differs))  # type: ignore[arg-type]
    assert result.verdict is verdict
    assert text in f"{result.found} {result.remedy}"
    assert bool(result.remedy) == (verdict is not Verdict.PASS)


def test_the_scheduler_that_was_asked_for_is_the_one_that_is_checked() -> None:
    facts = replace(HEALTHY, modules={"ip_vs_rr": ModuleState.LOADED, "ip_vs_mh": ModuleState.MISSING})
    assert check("ip-vs-scheduler", Mode.IPVS, facts, DataplaneConfig(ipvs_scheduler="rr")).verdict is Verdict.PASS
    loadable = replace(facts, modules={**facts.modules, "ip_vs_wlc": ModuleState.LOADABLE})
    assert check("ip-vs-scheduler", Mode.IPVS, loadable, DataplaneConfig(ipvs_scheduler="wlc")).verdict is Verdict.PASS
    without = replace(facts, modules={**facts.modules, "ip_vs_rr": ModuleState.MISSING})
    assert check("ip-vs-scheduler", Mode.IPVS, without, DataplaneConfig(ipvs_scheduler="rr")).verdict is Verdict.BLOCK
    missing = check("ip-vs-scheduler", Mode.IPVS, facts, DataplaneConfig(ipvs_scheduler="mh"))
    assert missing.verdict is Verdict.WARN
    assert "virtual servers get rr in its place" in missing.found


def test_what_matters_to_a_hand_over_only_does_not_matter_where_connections_are_cut() -> None:
    facts = replace(HEALTHY, sysctls={"net.netfilter.nf_conntrack_tcp_loose": 0})
    cut = DataplaneConfig(connections=ConnectionPolicy.CUT)
    assert check("conntrack-loose", Mode.NFTABLES, facts, cut).verdict is Verdict.PASS


def test_a_check_that_is_not_about_the_mode_is_not_listed() -> None:
    assert "ip-vs-module" not in {result.id for result in run(Mode.NFTABLES, HEALTHY, DataplaneConfig())}
    assert "ipvs-scheduling" not in {result.id for result in run(Mode.IPVS, HEALTHY, DataplaneConfig())}


def test_a_blocking_neighbour_is_named_before_one_that_only_worries() -> None:
    facts = replace(HEALTHY, interfaces=frozenset({"cilium_host", "kube-dummy-if"}))
    result = check("foreign-dataplane", Mode.NFTABLES, facts)
    assert result.verdict is Verdict.BLOCK
    assert "kube-router" in result.found
    assert "Cilium" not in result.found


@given(
    st.builds(
        Facts,
        kernel=st.text(max_size=12) | st.from_regex(r"\d{1,2}\.\d{1,2}\.\d{1,3}", fullmatch=True),
        modules=st.dictionaries(st.sampled_from(["ip_vs", "ip_vs_rr", "dummy"]), st.sampled_from(ModuleState)),
        sysctls=st.dictionaries(
            st.sampled_from([*HEALTHY.sysctls]), st.integers(min_value=0, max_value=2**31), max_size=4
        ),
        conntrack_count=st.none() | st.integers(min_value=0, max_value=2**31),
        interfaces=st.frozensets(st.sampled_from(["eth0", "kube-ipvs0", "cilium_host", "antrea-gw0"])),
    ),
    st.sampled_from(Mode),
)
def test_no_node_breaks_a_check_and_whoever_is_stopped_is_told_what_to_do(facts: Facts, mode: Mode) -> None:
    for result in run(mode, facts, DataplaneConfig()):
        assert result.found
        assert bool(result.remedy) == (result.verdict is not Verdict.PASS)


@pytest.mark.parametrize(
    ("text", "expected"), [("6.1.0-41-amd64", (6, 1)), ("5.13", (5, 13)), ("6.18.44-fc-v657", (6, 18))]
)
def test_kernel_releases(text: str, expected: tuple[int, int]) -> None:
    assert kernel_release(text) == expected
