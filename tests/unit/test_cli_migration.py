"""The migration report's rules: what the API server's objects say, and what somebody is told about it."""

from __future__ import annotations

from typing import Any

import pytest
from rich.console import Console

import yaml
from proxymode_api.annotations import IPVS_SCHEDULER_ANNOTATION
from proxymode_api.common import (
    DataplaneOptions,
    DetectLocal,
    IpvsOptions,
    IpvsScheduler,
    IpvsTimeouts,
    KubeProxyOptions,
)
from proxymode_api.deprecation import Minor
from proxymode_api.modes import KubeProxyPolicy, Mode
from proxymode_cli.migration import objects
from proxymode_cli.migration.family import Family
from proxymode_cli.migration.model import Report, Severity, Situation
from proxymode_cli.migration.table import RULES, analyse
from proxymode_cli.render_migration import migration, summary

NFT, IPVS = Mode.NFTABLES, Mode.IPVS


def node(name: str = "n1", family: Family = Family.IPVS, kernel: str = "6.1.0-41-amd64", **status: Any) -> Any:
    addresses = status.pop("addresses", ["InternalIP 10.0.0.1", "Hostname n1"])
    pairs = [entry.split() for entry in addresses]
    found = {
        "metadata": {"name": name},
        "status": {
            "nodeInfo": {"kernelVersion": kernel},
            "addresses": [{"type": kind, "address": address} for kind, address in pairs],
        },
    }
    return objects.node(found, family)


def service(name: str = "web", **spec: Any) -> Any:
    annotations = spec.pop("annotations", {})
    status = spec.pop("status", {})
    item = {
        "metadata": {"namespace": "shop", "name": name, "annotations": annotations},
        "spec": {"type": "ClusterIP", "clusterIP": "10.96.0.7", "ports": [{"port": 80}]} | spec,
        "status": status,
    }
    found = objects.service(item)
    assert found is not None
    return found


def daemon_set(name: str, *arguments: str, image: str = "example/image:1", **environment: str) -> Any:
    container = {
        "image": image,
        "args": list(arguments),
        "env": [{"name": key, "value": value} for key, value in environment.items()],
    }
    return objects.daemon_set(
        {
            "metadata": {"namespace": "kube-system", "name": name},
            "spec": {"template": {"spec": {"containers": [container]}}},
        }
    )


def config(cluster: Minor | None = None, **found: Any) -> objects.KubeProxyConfig:
    made = objects.kube_proxy_config(
        {"data": {"config.conf": yaml.safe_dump({"kind": "KubeProxyConfiguration"} | found)}}, cluster
    )
    assert made is not None
    return made


def seen(to: Mode, *nodes: Any, **rest: Any) -> Situation:
    return Situation(to=to, nodes=nodes or (node(family=Family.IPVS if to is NFT else Family.NFTABLES),), **rest)


def told(situation: Situation) -> set[tuple[str, str, str]]:
    """Rule, severity and subject of every finding."""
    return {(found.rule, found.severity.value, found.subject) for found in analyse(situation).findings}


NODE_PORT = service(
    type="NodePort", ports=[{"port": 80, "nodePort": 30080}, {"port": 53, "nodePort": 30053, "protocol": "UDP"}]
)
BALANCED = service("lb", type="LoadBalancer", status={"loadBalancer": {"ingress": [{"ip": "192.0.2.10"}]}})
LOCAL = service("edge", type="LoadBalancer", externalTrafficPolicy="Local")
SCHEDULED = service("spread", annotations={IPVS_SCHEDULER_ANNOTATION: "lc"})
FROM_IPTABLES = node(family=Family.IPTABLES)
CONFIG_MAP = "ConfigMap kube-system/kube-proxy"
SPEAKER = daemon_set("speaker", image="quay.io/metallb/speaker:v0.15.2")

CASES = {
    "kernel": [
        (seen(NFT, node("old", kernel="5.10.0-34")), ("kernel", "block", "Node old")),
        (seen(IPVS, node("old", Family.NFTABLES, "5.4.0")), ("kernel", "warn", "Node old")),
    ],
    "kube-proxy": [
        (
            seen(NFT, daemon_sets=(daemon_set("kube-proxy"),)),
            ("kube-proxy", "warn", "DaemonSet kube-system/kube-proxy"),
        ),
    ],
    "kube-proxy-settings": [
        (seen(to, kube_proxy=config(mode="ipvs", **found)), ("kube-proxy-settings", "warn", CONFIG_MAP))
        for to, found in (
            (NFT, {"clusterCIDR": "10.244.0.0/16,fd00::/56"}),
            (NFT, {"nftables": {"masqueradeAll": True}}),
            (NFT, {"ipvs": {"excludeCIDRs": ["192.0.2.0/24"]}}),
            (NFT, {"nodePortAddresses": ["192.0.2.0/24"]}),
            (NFT, {"detectLocalMode": "BridgeInterface"}),
            (NFT, {"conntrack": {"maxPerCore": 65536}}),
            (IPVS, {"ipvs": {"strictARP": True}}),
        )
    ]
    + [
        (
            seen(
                NFT,
                kube_proxy=config(mode="ipvs", clusterCIDR="192.168.0.0/16,fd44::/48"),
                options=DataplaneOptions(detect_local=DetectLocal(cluster_cidrs=cidrs)),
            ),
            ("kube-proxy-settings", "block", CONFIG_MAP),
        )
        for cidrs in (["10.244.0.0/16", "fd44::/48"], ["192.168.0.0/17", "fd44::/48"], ["192.168.0.0/16"])
    ],
    "cilium": [
        (seen(NFT, daemon_sets=(daemon_set("cilium"),)), ("cilium", "warn", "DaemonSet kube-system/cilium")),
        (
            seen(NFT, daemon_sets=(daemon_set("cilium"),), settings={"cilium-config/kube-proxy-replacement": "true"}),
            ("cilium", "block", "DaemonSet kube-system/cilium"),
        ),
        (
            seen(
                NFT,
                daemon_sets=(daemon_set("cilium"),),
                settings={"cilium-config/kube-proxy-replacement": "false", "cilium-config/bpf-lb-sock": "true"},
            ),
            ("cilium", "block", "DaemonSet kube-system/cilium"),
        ),
    ],
    "calico": [
        (seen(NFT, daemon_sets=(daemon_set("calico-node"),)), ("calico", "warn", "DaemonSet kube-system/calico-node")),
        (
            seen(NFT, daemon_sets=(daemon_set("calico-node", FELIX_BPFENABLED="true"),)),
            ("calico", "block", "DaemonSet kube-system/calico-node"),
        ),
        (seen(NFT, calico=objects.Calico(dataplane="BPF")), ("calico", "block", "Installation default")),
        (seen(IPVS, calico=objects.Calico(dataplane="Nftables")), ("calico", "warn", "Installation default")),
    ],
    "kube-router": [
        (
            seen(NFT, daemon_sets=(daemon_set("kube-router"),)),
            ("kube-router", "block", "DaemonSet kube-system/kube-router"),
        ),
    ],
    "antrea": [
        (
            seen(
                NFT,
                daemon_sets=(daemon_set("antrea-agent"),),
                settings={"antrea-config/antrea-agent.conf": "antreaProxy:\n  proxyAll: true\n"},
            ),
            ("antrea", "block", "DaemonSet kube-system/antrea-agent"),
        ),
        (
            seen(NFT, daemon_sets=(daemon_set("antrea-agent"),)),
            ("antrea", "info", "DaemonSet kube-system/antrea-agent"),
        ),
    ],
    "ovn-kubernetes": [
        (
            seen(NFT, daemon_sets=(daemon_set("ovnkube-node"),)),
            ("ovn-kubernetes", "block", "DaemonSet kube-system/ovnkube-node"),
        ),
    ],
    "strict-arp": [
        (
            seen(IPVS, daemon_sets=(SPEAKER,), metallb_l2=True),
            ("strict-arp", "block", "DaemonSet kube-system/speaker"),
        ),
        (seen(IPVS, daemon_sets=(SPEAKER,)), ("strict-arp", "warn", "DaemonSet kube-system/speaker")),
        (
            seen(NFT, daemon_sets=(SPEAKER,), kube_proxy=config(mode="ipvs", ipvs={"strictARP": True})),
            ("strict-arp", "info", "DaemonSet kube-system/speaker"),
        ),
    ],
    "node-local-dns": [
        (
            seen(IPVS, daemon_sets=(daemon_set("node-local-dns", "-localip", "169.254.20.10,10.96.0.10"),)),
            ("node-local-dns", "block", "DaemonSet kube-system/node-local-dns"),
        ),
        (
            seen(NFT, daemon_sets=(daemon_set("node-local-dns", "-localip=169.254.20.10"),)),
            ("node-local-dns", "info", "DaemonSet kube-system/node-local-dns"),
        ),
    ],
    "node-port-addresses": [
        (seen(NFT, services=(NODE_PORT,)), ("node-port-addresses", "info", "Service shop/web")),
        (
            seen(NFT, node(addresses=["InternalIP 10.0.0.1", "ExternalIP 203.0.113.7"]), services=(NODE_PORT,)),
            ("node-port-addresses", "warn", "Service shop/web"),
        ),
    ],
    "node-port-localhost": [
        (
            seen(NFT, node(family=Family.IPTABLES), services=(NODE_PORT,)),
            ("node-port-localhost", "warn", "Service shop/web"),
        ),
    ],
    "vip-local": [
        (seen(NFT, services=(BALANCED,)), ("vip-local", "warn", "Service shop/lb")),
        (seen(IPVS, services=(BALANCED,)), ("vip-local", "warn", "Service shop/lb")),
        (seen(NFT, services=(service(externalIPs=["192.0.2.9"]),)), ("vip-local", "warn", "Service shop/web")),
    ],
    "cluster-ip-ping": [(seen(NFT, services=(service(),)), ("cluster-ip-ping", "info", "Cluster"))],
    "external-policy-local": [
        (seen(NFT, services=(LOCAL,)), ("external-policy-local", "info", "Service shop/edge")),
        (seen(IPVS, services=(LOCAL,)), ("external-policy-local", "warn", "Service shop/edge")),
    ],
    "scheduler": [
        (seen(NFT, kube_proxy=config(mode="ipvs", ipvs={"scheduler": "lc"})), ("scheduler", "warn", "Cluster")),
        (
            seen(NFT, options=DataplaneOptions(ipvs=IpvsOptions(scheduler=IpvsScheduler.SH))),
            ("scheduler", "warn", "Cluster"),
        ),
        (
            seen(NFT, services=(service(annotations={IPVS_SCHEDULER_ANNOTATION: "wlc"}),)),
            ("scheduler", "warn", "Service shop/web"),
        ),
    ],
    "firewall": [(seen(NFT, services=(NODE_PORT,)), ("firewall", "warn", "Cluster"))],
    "conntrack-liberal": [(seen(NFT, node("n5", kernel="5.15.0")), ("conntrack-liberal", "warn", "Node n5"))],
    "ipvs-timeouts": [
        (
            seen(NFT, kube_proxy=config(mode="ipvs", ipvs={"tcpTimeout": "15m0s"})),
            ("ipvs-timeouts", "info", "Cluster"),
        ),
        (
            seen(NFT, options=DataplaneOptions(ipvs=IpvsOptions(timeouts=IpvsTimeouts(udp="30s")))),
            ("ipvs-timeouts", "info", "Cluster"),
        ),
    ],
    "deprecated-mode": [
        (seen(IPVS, cluster=Minor(1, 36)), ("deprecated-mode", "warn", "Cluster")),
        (seen(IPVS, cluster=Minor(1, 34)), ("deprecated-mode", "info", "Cluster")),
    ],
}


@pytest.mark.parametrize(
    ("rule", "situation", "wanted"), [(rule, *case) for rule, cases in CASES.items() for case in cases]
)
def test_a_rule_finds_what_it_is_for(rule: str, situation: Situation, wanted: tuple[str, str, str]) -> None:
    assert wanted in told(situation)
    (row,) = [row for row in RULES if row.id == rule]
    for finding in row.find(situation):
        assert finding.rule == rule
        assert finding.why.endswith(".")
        assert finding.do.endswith(".")
        assert finding.link.startswith("https://")


def test_every_rule_is_tried() -> None:
    assert [rule.id for rule in RULES] == list(CASES)


@pytest.mark.parametrize(
    "situation",
    [
        seen(NFT, node(family=Family.NFTABLES), services=(NODE_PORT, BALANCED, LOCAL), daemon_sets=(SPEAKER,)),
        seen(NFT, services=()),
        seen(NFT, node(family=Family.IPTABLES), services=(service(),), cluster=Minor(1, 36)),
    ],
)
def test_nothing_is_found_where_nothing_changes(situation: Situation) -> None:
    assert told(situation) == set()


@pytest.mark.parametrize(
    ("situation", "silent"),
    [
        (
            seen(NFT, services=(NODE_PORT,), options=DataplaneOptions(node_port_addresses=["10.0.0.0/8"])),
            "node-port-addresses",
        ),
        (
            seen(
                NFT,
                node(family=Family.IPTABLES),
                services=(NODE_PORT,),
                kube_proxy=config(iptables={"localhostNodePorts": False}),
            ),
            "node-port-localhost",
        ),
        (seen(NFT, services=(NODE_PORT,)), "node-port-localhost"),
        (seen(IPVS, daemon_sets=(SPEAKER,), options=DataplaneOptions(ipvs=IpvsOptions(strict_arp=True))), "strict-arp"),
        (seen(NFT, daemon_sets=(daemon_set("kube-router", "--run-service-proxy=false"),)), "kube-router"),
        (seen(NFT, daemon_sets=(daemon_set("calico-node", FELIX_NFTABLESMODE="Enabled"),)), "calico"),
        (
            seen(NFT, daemon_sets=(daemon_set("cilium"),), settings={"cilium-config/kube-proxy-replacement": "false"}),
            "cilium",
        ),
        (seen(IPVS, daemon_sets=(daemon_set("node-local-dns", "-localip", "169.254.20.10"),)), "node-local-dns"),
        (
            seen(
                NFT,
                daemon_sets=(daemon_set("kube-proxy"),),
                options=DataplaneOptions(kube_proxy=KubeProxyOptions(policy=KubeProxyPolicy.TAKE_OVER)),
            ),
            "kube-proxy",
        ),
        (
            seen(
                NFT,
                kube_proxy=config(clusterCIDR="10.244.0.0/16", ipvs={"strictARP": True}),
                options=DataplaneOptions(detect_local=DetectLocal(cluster_cidrs=["10.244.0.0/16"])),
            ),
            "kube-proxy-settings",
        ),
        (
            seen(
                NFT,
                kube_proxy=config(
                    clusterCIDR="10.244.0.0/16",
                    detectLocalMode="ClusterCIDR",
                    nodePortAddresses=None,
                    conntrack={"maxPerCore": None, "min": 131072, "tcpEstablishedTimeout": "24h0m0s"},
                ),
                options=DataplaneOptions(detect_local=DetectLocal(cluster_cidrs=["10.0.0.0/8"])),
            ),
            "kube-proxy-settings",
        ),
        (
            seen(NFT, node(kernel="5.15.0"), kube_proxy=config(mode="ipvs", conntrack={"tcpBeLiberal": True})),
            "conntrack-liberal",
        ),
        (seen(NFT, kube_proxy=config(mode="ipvs", ipvs={"scheduler": "rr", "tcpTimeout": "0s"})), "scheduler"),
        (seen(NFT, kube_proxy=config(mode="ipvs", ipvs={"scheduler": "rr", "tcpTimeout": "0s"})), "ipvs-timeouts"),
        (seen(NFT, node(kernel="5.13.0")), "kernel"),
        (seen(IPVS, node("n1", Family.NFTABLES, "5.9.0")), "kernel"),
        (seen(NFT, node(kernel="6.1.0")), "conntrack-liberal"),
        # What is about leaving ipvs is not about leaving iptables, nor about coming to ipvs.
        (seen(NFT, FROM_IPTABLES, services=(SCHEDULED,)), "scheduler"),
        (seen(IPVS, FROM_IPTABLES, services=(SCHEDULED,)), "scheduler"),
        (seen(NFT, FROM_IPTABLES, kube_proxy=config(mode="iptables", ipvs={"tcpTimeout": "900s"})), "ipvs-timeouts"),
        (seen(NFT, FROM_IPTABLES, services=(BALANCED,)), "vip-local"),
        (seen(NFT, FROM_IPTABLES, services=(LOCAL,)), "external-policy-local"),
    ],
)
def test_a_rule_is_silent_where_it_is_provided_for(situation: Situation, silent: str) -> None:
    assert silent not in {rule for rule, _, _ in told(situation)}


@pytest.mark.parametrize(
    ("situation", "wanted"),
    [
        (seen(NFT, node(kernel="5.12.19")), ("kernel", "block", "Node n1")),
        (seen(IPVS, node("n1", Family.NFTABLES, "5.8.18")), ("kernel", "warn", "Node n1")),
        (seen(NFT, node(kernel="5.13.0")), ("conntrack-liberal", "warn", "Node n1")),
        (seen(NFT, node(kernel="6.0.19")), ("conntrack-liberal", "warn", "Node n1")),
        (
            seen(IPVS, FROM_IPTABLES, services=(NODE_PORT,), options=DataplaneOptions(localhost_node_ports=True)),
            ("node-port-localhost", "warn", "Service shop/web"),
        ),
    ],
)
def test_a_rule_holds_up_to_its_boundary(situation: Situation, wanted: tuple[str, str, str]) -> None:
    assert wanted in told(situation)


def test_localhost_is_answered_by_the_agent_for_tcp_only() -> None:
    situation = seen(
        NFT, node(family=Family.IPTABLES), services=(NODE_PORT,), options=DataplaneOptions(localhost_node_ports=True)
    )
    (finding,) = [found for found in analyse(situation).findings if found.rule == "node-port-localhost"]
    assert finding.detail == "30053/UDP"


@pytest.mark.parametrize(
    "change",
    [
        {"spec": {"clusterIP": "None", "ports": []}},
        {"spec": {"type": "ExternalName", "externalName": "example.org"}},
        {"spec": {"clusterIP": "10.96.0.7"}, "metadata": {"labels": {"service.kubernetes.io/service-proxy-name": "x"}}},
    ],
)
def test_services_that_no_service_proxy_of_ours_handles_do_not_count(change: dict[str, Any]) -> None:
    assert objects.service({"metadata": {"name": "web"}} | change) is None


def test_an_address_of_a_load_balancer_that_proxies_is_no_vip() -> None:
    ingress = [{"ip": "192.0.2.10", "ipMode": "Proxy"}, {"hostname": "lb.example.org"}]
    assert service(type="LoadBalancer", status={"loadBalancer": {"ingress": ingress}}).vips == ()


def test_primary_addresses_are_the_first_of_each_family() -> None:
    found = node(
        addresses=["ExternalIP 203.0.113.7", "InternalIP 10.0.0.1", "InternalIP 10.1.0.1", "InternalIP fd00::1"]
    )
    assert (found.primary, found.others) == (("10.0.0.1", "fd00::1"), ("10.1.0.1", "203.0.113.7"))


@pytest.mark.parametrize("text", ["", "][", "[]", "mode: userspace"])
def test_a_config_map_that_is_none_of_kube_proxys_says_nothing(text: str) -> None:
    assert objects.kube_proxy_config({"data": {"config.conf": text}}, None) is None


def test_kube_proxys_default_mode_is_iptables_with_localhost() -> None:
    found = config(mode="")
    assert (found.family, found.localhost_node_ports) == (Family.IPTABLES, True)


def test_from_1_40_kube_proxys_default_mode_is_nftables() -> None:
    assert config(Minor(1, 39), mode="").family is Family.IPTABLES
    assert config(Minor(1, 40), mode="").family is Family.NFTABLES
    assert config(Minor(1, 40), mode="iptables").family is Family.IPTABLES


def text_of(report: Report, **options: Any) -> str:
    console = Console(width=140)
    with console.capture() as capture:
        console.print(migration(report, **options))
    return capture.get()


def test_the_report_groups_by_rule_with_the_gravest_first() -> None:
    many = tuple(service(f"web-{n}", type="NodePort", ports=[{"port": 80, "nodePort": 30000 + n}]) for n in range(12))
    report = analyse(seen(NFT, node("old", kernel="5.4.0"), services=many), ("no right to list Nodes",))
    found = text_of(report)
    assert found.index("Kernels") < found.index("Firewalls of nodes") < found.index("NodePorts on other addresses")
    assert found.count("NodePorts on other addresses") == 1
    assert "Service shop/web-6 " in found
    assert "web-7" not in found
    assert "and 5 more: -o wide" in found
    assert "web-11" in text_of(report, wide=True)
    assert "! no right to list Nodes" in found
    assert report.count(Severity.BLOCK) == 1


def test_a_plan_names_what_changes_without_what_is_only_good_to_know() -> None:
    report = analyse(seen(NFT, services=(NODE_PORT,)))
    console = Console(width=140)
    with console.capture() as capture:
        console.print(*summary(report))
    assert "Firewalls of nodes" in capture.get()
    assert "Ping of cluster IPs" not in capture.get()
    assert summary(analyse(seen(NFT, node(family=Family.NFTABLES)))) == []


def test_a_fleet_that_is_there_already_is_told_so() -> None:
    assert "Nothing changes: 1 node of 1 runs nftables already." in text_of(
        analyse(seen(NFT, node(family=Family.NFTABLES)))
    )
