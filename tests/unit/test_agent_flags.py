"""The command line: kube-proxy's names, and messages that say what would be right."""

from __future__ import annotations

import ipaddress
import os
import subprocess
import sys
from importlib.metadata import version as distribution_version
from pathlib import Path

import pytest

from proxymode_agent.flag_parser import flag_parser
from proxymode_agent.flags import DATAPLANE_FLAGS, parse
from proxymode_agent.services.model import DataplaneConfig, IpvsTimeouts, PodInterface, PodNetworks
from proxymode_agent.version import VERSION
from proxymode_api.modes import IpvsScheduler, Mode
from proxymode_flags import BindAddress
from proxymode_log import LogFormat


def test_defaults_are_those_of_an_agent_that_follows_its_nodeproxymode() -> None:
    options = parse([])
    assert options.standalone is None
    assert options.kubeconfig is None
    assert options.node_name == os.uname().nodename.lower()
    assert options.metrics_address == BindAddress("127.0.0.1", 10249)
    assert options.healthz_address == BindAddress("0.0.0.0", 10256)
    assert options.node_healthz_address is None
    assert options.state_dir == Path("/var/lib/proxymode")
    assert (options.sync_period, options.log_format, options.verbosity) == (30.0, LogFormat.LOGFMT, 0)
    assert not options.cleanup
    assert not options.cleanup_needs_kube_proxy


def test_everything_said() -> None:
    options = parse(
        [
            "--kubeconfig=/etc/kubeconfig",
            "--hostname-override=Node-1",
            "--mode=ipvs",
            "--cluster-cidr=10.244.0.0/16,fd00:10:244::/56",
            "--nodeport-addresses=192.168.0.0/16",
            "--localhost-nodeports",
            "--masquerade-all",
            "--iptables-masquerade-bit=3",
            "--ipvs-scheduler=wlc",
            "--ipvs-strict-arp=true",
            "--ipvs-exclude-cidrs=203.0.113.7/24",
            "--ipvs-tcp-timeout=15m0s",
            "--ipvs-udp-timeout=0",
            "--ipvs-drain-timeout=10m",
            "--metrics-bind-address=[::1]:65535",
            "--healthz-bind-address=",
            "--state-dir=/run/x",
            "--sync-period=1m30s",
            "--logging-format=json",
            "--v=4",
        ]
    )
    standalone = options.standalone
    assert standalone is not None
    assert standalone.mode is Mode.IPVS
    assert standalone.config == DataplaneConfig(
        pods=PodNetworks((ipaddress.ip_network("10.244.0.0/16"), ipaddress.ip_network("fd00:10:244::/56"))),
        localhost_node_ports=True,
        masquerade_all=True,
        masquerade_bit=3,
        node_port_addresses=(ipaddress.ip_network("192.168.0.0/16"),),
        ipvs_scheduler="wlc",
        ipvs_strict_arp=True,
        ipvs_exclude_cidrs=(ipaddress.ip_network("203.0.113.0/24"),),
        ipvs_timeouts=IpvsTimeouts(tcp=900),
        ipvs_drain_seconds=600,
    )
    assert options.kubeconfig == Path("/etc/kubeconfig")
    assert options.node_name == "node-1"
    assert options.metrics_address == BindAddress("::1", 65535)
    assert str(options.metrics_address) == "[::1]:65535"
    assert options.healthz_address is None
    assert (options.sync_period, options.log_format, options.verbosity) == (90, LogFormat.JSON, 4)


def test_node_port_addresses_are_resolved_with_the_nodes_own() -> None:
    ips = (bytes([192, 168, 0, 7]), ipaddress.ip_address("fd00::7").packed)

    def resolved(*arguments: str) -> tuple[str, ...] | None:
        standalone = parse(["--mode=nftables", *arguments]).standalone
        assert standalone is not None
        config = standalone.resolve(ips, ())
        assert config is not None
        assert config.node_ips == ips
        return None if config.node_port_addresses is None else tuple(map(str, config.node_port_addresses))

    assert resolved() is None
    assert resolved("--nodeport-addresses=") is None
    assert resolved("--nodeport-addresses=10.0.0.0/8") == ("10.0.0.0/8",)
    assert resolved("--nodeport-addresses=primary") == ("192.168.0.7/32", "fd00::7/128")
    assert resolved("--nodeport-addresses=10.0.0.0/8,primary") == ("10.0.0.0/8", "192.168.0.7/32", "fd00::7/128")


@pytest.mark.parametrize(
    ("arguments", "pods"),
    [
        ([], None),
        (["--detect-local-mode=ClusterCIDR"], None),
        (["--cluster-cidr=10.0.0.0/8"], PodNetworks((ipaddress.ip_network("10.0.0.0/8"),))),
        (["--detect-local-mode=NodeCIDR"], PodNetworks((ipaddress.ip_network("10.244.3.0/24"),))),
        (["--detect-local-mode=BridgeInterface", "--pod-bridge-interface=cni0"], PodInterface("cni0")),
        (
            ["--detect-local-mode=InterfaceNamePrefix", "--pod-interface-name-prefix=veth"],
            PodInterface("veth", prefix=True),
        ),
    ],
)
def test_who_is_a_pod(arguments: list[str], pods: PodNetworks | PodInterface | None) -> None:
    standalone = parse(["--mode=nftables", *arguments]).standalone
    assert standalone is not None
    config = standalone.resolve((), (ipaddress.ip_network("10.244.3.0/24"),))
    assert config is not None
    assert config.pods == pods


def test_the_nodes_own_pod_networks_are_waited_for() -> None:
    standalone = parse(["--mode=ipvs", "--detect-local-mode=NodeCIDR"]).standalone
    assert standalone is not None
    assert standalone.resolve((), ()) is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--detect-local-mode=BridgeInterface"], "--detect-local-mode: BridgeInterface needs --pod-bridge-interface"),
        (
            ["--pod-bridge-interface=cni0"],
            "--pod-bridge-interface: would be ignored with --detect-local-mode ClusterCIDR; it goes with Bridge",
        ),
        (
            ["--detect-local-mode=NodeCIDR", "--cluster-cidr=10.0.0.0/8"],
            "--cluster-cidr: would be ignored with --detect-local-mode NodeCIDR; it goes with ClusterCIDR",
        ),
    ],
)
def test_flags_about_pods_that_do_not_go_together(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(["--mode=nftables", *arguments])
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argument", "right"),
    [
        ("--mode=iptables", "'iptables' is not a mode this agent programs; use nftables or ipvs"),
        ("--state-dir=", "'' is not an absolute path; write it as in /var/lib/proxymode"),
        ("--state-dir=state", "'state' is not an absolute path; write it as in /var/lib/proxymode"),
        ("--cluster-cidr=10.0.0.0/33", "'10.0.0.0/33' is not a network; write it as in 10.244.0.0/16"),
        ("--nodeport-addresses=secondary", "'secondary' is neither a network such as"),
        ("--detect-local-mode=Guess", "'Guess' is not a way to tell pods; use one of NodeCIDR, ClusterCIDR"),
        ("--pod-bridge-interface=a/b", "'a/b' is not an interface's name; use up to 15 characters"),
        ("--masquerade-all=maybe", "'maybe' is neither true nor false"),
        ("--masquerade-bit=32", "'32' is not a bit of the packet mark; use 0 to 31"),
        ("--ipvs-scheduler=fastest", f"'fastest' is not an IPVS scheduler; use one of {', '.join(IpvsScheduler)}"),
        ("--ipvs-strict-arp=2", "'2' is neither true nor false"),
        ("--ipvs-exclude-cidrs=x", "'x' is not a network"),
        (
            "--ipvs-tcp-timeout=1.5s",
            "'1.5s' is not a duration: write hours, minutes and seconds as in 1h30m, 10m, 45s or 0",
        ),
        ("--metrics-bind-address=10249", "'10249' is not an address to listen on; write it as in 127.0.0.1:10249"),
        ("--healthz-bind-address=localhost:1", "'localhost:1' is not an address to listen on"),
        ("--healthz-bind-address=127.0.0.1:65536", "'127.0.0.1:65536' is not an address to listen on"),
        ("--node-name=Bad_Name", "'Bad_Name' is not a node name"),
        ("--sync-period=30", "'30' is not a duration: write hours, minutes and seconds as in 1h30m"),
        ("--sync-period=0s", "'0s' is too short"),
        ("--logging-format=text", "'text' is not a logging format; use logfmt or json"),
        ("--v=loud", "'loud' is not a log level"),
    ],
)
def test_a_bad_value_is_named_with_its_flag_and_what_would_be_right(
    argument: str, right: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(["--mode=nftables", argument])
    assert ended.value.code == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert argument.split("=")[0] in message
    assert right in message


@pytest.mark.parametrize("argument", ["--cluster-cidr=10.0.0.0/8", "--masquerade-all", "--ipvs-scheduler=rr"])
def test_dataplane_flags_without_a_mode_are_refused_not_ignored(
    argument: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        parse([argument])
    assert ended.value.code == 2
    message = capsys.readouterr().err
    assert f"argument {argument.split('=')[0]}: needs --mode; without it the node's NodeProxyMode decides" in message


def test_every_flag_of_the_standalone_agent_is_known_to_be_one() -> None:
    groups = {group.title: group for group in flag_parser("n")._action_groups}
    assert {action.dest for action in groups["standalone"]._group_actions} == {*DATAPLANE_FLAGS, "mode"}


def test_kube_proxys_arguments_go_with_cleanup() -> None:
    assert parse(["--cleanup", "--cluster-cidr=10.0.0.0/8"]).cleanup
    assert not parse(["--cleanup=false"]).cleanup


def agent(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "proxymode_agent", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={"PATH": os.environ["PATH"], **env},
    )


def test_the_process_says_its_version_and_help() -> None:
    assert agent("--version").stdout.startswith("proxymode-agent ")
    shown = agent("--help").stdout
    for flag in ("--kubeconfig", "--mode", "--cluster-cidr", "--cleanup", "--healthz-bind-address"):
        assert flag in shown


def test_a_start_that_cannot_work_ends_with_one_line(tmp_path: Path) -> None:
    outside = agent("--mode=nftables", f"--state-dir={tmp_path}/state")
    assert outside.returncode == 1
    assert "give --kubeconfig FILE" in outside.stderr
    assert len(outside.stderr.splitlines()) == 1
    missing = agent("--mode=nftables", f"--kubeconfig={tmp_path}/none", f"--state-dir={tmp_path}/state")
    assert missing.returncode == 1
    assert f"{tmp_path}/none: No such file or directory" in missing.stderr
    (tmp_path / "file").touch()
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(
        "{current-context: a, contexts: [{name: a, context: {cluster: c, user: u}}],"
        " clusters: [{name: c, cluster: {server: 'http://127.0.0.1:1'}}], users: [{name: u, user: {token: t}}]}"
    )
    unwritable = agent("--mode=nftables", f"--kubeconfig={kubeconfig}", f"--state-dir={tmp_path}/file/state")
    assert unwritable.returncode == 1
    assert f"--state-dir {tmp_path}/file/state: Not a directory" in unwritable.stderr


def test_the_standalone_agent_imports_no_large_library() -> None:
    large = ("aiohttp", "kopf", "kubernetes", "pydantic")
    code = f"import sys, proxymode_agent.parts; print(*(name for name in {large} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == ""


def test_the_version_is_the_distributions() -> None:
    assert distribution_version("proxymode") == VERSION


def test_little_is_imported_before_the_first_request() -> None:
    late = ("proxymode_agent.parts", "proxymode_agent.switch", "prometheus_client", "yaml", "importlib.metadata")
    code = f"import sys, proxymode_agent.main; print(*(name for name in {late} if name in sys.modules))"
    found = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == []
