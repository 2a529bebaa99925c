"""Reading a node: a file system written down, facts expected."""

from __future__ import annotations

import gzip
import os
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import TYPE_CHECKING

import pytest

from proxymode_agent.preflight.facts import ipvs_table, kube_proxy_process, proxy_health, proxy_mode
from proxymode_agent.preflight.model import IpvsTable, ModuleState
from proxymode_agent.preflight.modules import module_states

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

RELEASE = "6.1.0-41-amd64"


def write(root: Path, path: str, text: str | bytes) -> None:
    target = root / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(text if isinstance(text, bytes) else text.encode())


def test_a_loaded_module_is_loaded_wherever_its_file_is(tmp_path: Path) -> None:
    write(tmp_path, "proc/modules", "ip_vs 200704 2 ip_vs_rr, Live 0x0000000000000000\nip_vs_rr 16384 1 - Live 0x0\n")
    states = module_states(tmp_path, RELEASE)
    assert states["ip_vs"] is ModuleState.LOADED
    assert states["ip_vs_rr"] is ModuleState.LOADED
    assert states["dummy"] is ModuleState.UNKNOWN


def test_depmods_lists_tell_built_in_loadable_and_missing(tmp_path: Path) -> None:
    folder = f"lib/modules/{RELEASE}"
    write(tmp_path, f"{folder}/modules.builtin", "kernel/net/netfilter/nf_conntrack.ko\n")
    write(
        tmp_path,
        f"{folder}/modules.dep",
        "kernel/net/netfilter/ipvs/ip_vs.ko: kernel/lib/libcrc32c.ko\n"
        "kernel/net/netfilter/ipvs/ip_vs_lc.ko.xz: kernel/net/netfilter/ipvs/ip_vs.ko\n",
    )
    states = module_states(tmp_path, RELEASE)
    assert states["nf_conntrack"] is ModuleState.BUILTIN
    assert states["ip_vs"] is ModuleState.LOADABLE
    assert states["ip_vs_lc"] is ModuleState.LOADABLE
    assert states["ip_vs_mh"] is ModuleState.MISSING


def test_lists_of_another_kernel_say_nothing_about_this_one(tmp_path: Path) -> None:
    write(tmp_path, "lib/modules/5.10.0-1/modules.dep", "kernel/net/netfilter/ipvs/ip_vs.ko:\n")
    assert module_states(tmp_path, RELEASE)["ip_vs"] is ModuleState.UNKNOWN


@pytest.mark.parametrize("where", ["proc/config.gz", f"boot/config-{RELEASE}"])
def test_without_depmods_lists_the_kernels_configuration_decides(tmp_path: Path, where: str) -> None:
    text = b"CONFIG_IP_VS=m\n# CONFIG_DUMMY is not set\nCONFIG_NF_TABLES=y\n"
    write(tmp_path, where, gzip.compress(text) if where.endswith(".gz") else text)
    states = module_states(tmp_path, RELEASE)
    assert states["ip_vs"] is ModuleState.LOADABLE
    assert states["nf_tables"] is ModuleState.BUILTIN
    assert states["dummy"] is ModuleState.MISSING


def test_virtual_and_real_servers_are_counted_by_scheduler_and_method(tmp_path: Path) -> None:
    write(
        tmp_path,
        "ip_vs",
        "IP Virtual Server version 1.2.1 (size=4096)\n"
        "Prot LocalAddress:Port Scheduler Flags\n"
        "  -> RemoteAddress:Port Forward Weight ActiveConn InActConn\n"
        "TCP  0A60000A:0050 rr \n"
        "  -> 0AF4000B:1F90      Masq    1      0          0         \n"
        "  -> 0AF4000C:1F90      Masq    1      0          0         \n"
        "UDP  [fd00:0010:0000:0000:0000:0000:0000:000a]:0035 wlc persistent 10800\n"
        "  -> [fd00:0244:0000:0000:0000:0000:0000:000b]:0035      Route   1      0          0\n"
        "FWM  00000001 sh \n",
    )
    assert ipvs_table(tmp_path / "ip_vs") == IpvsTable(
        schedulers={"rr": 1, "wlc": 1, "sh": 1}, forwarding={"Masq": 2, "Route": 1}
    )


def test_a_kernel_without_ip_vs_has_no_virtual_servers(tmp_path: Path) -> None:
    assert ipvs_table(tmp_path / "ip_vs") == IpvsTable()


def test_only_a_kube_proxy_of_this_network_namespace_counts(tmp_path: Path) -> None:
    def process(pid: str, comm: str, namespace: str) -> None:
        write(tmp_path, f"proc/{pid}/comm", f"{comm}\n")
        (tmp_path / f"proc/{pid}/ns").mkdir()
        os.link(tmp_path / namespace, tmp_path / f"proc/{pid}/ns/net")

    write(tmp_path, "ours", "")
    write(tmp_path, "theirs", "")
    process("thread-self", "agent", "ours")
    process("100", "kubelet", "ours")
    process("200", "kube-proxy", "theirs")
    assert kube_proxy_process(tmp_path) is None
    process("300", "kube-proxy", "ours")
    assert kube_proxy_process(tmp_path) == 300


def test_a_process_whose_name_is_no_text_ends_nothing(tmp_path: Path) -> None:
    """Anybody may give a process of theirs any name (prctl PR_SET_NAME); the kernel cuts long ones within a letter."""
    write(tmp_path, "proc/thread-self/ns/net", "")
    write(tmp_path, "proc/100/comm", b"\xff\xfe\n")
    assert kube_proxy_process(tmp_path) is None


@contextmanager
def answering(status: int, body: bytes, path: str = "/proxyMode", server_name: str = "") -> Iterator[int]:
    class Handler(BaseHTTPRequestHandler):
        def version_string(self) -> str:
            return server_name

        def do_GET(self) -> None:
            self.send_response(status if self.path == path else 404)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(
    ("status", "body", "mode"), [(200, b"ipvs", "ipvs"), (404, b"ipvs", ""), (200, b"<html>", ""), (200, b"", "")]
)
def test_kube_proxy_is_asked_for_its_mode(status: int, body: bytes, mode: str) -> None:
    with answering(status, body) as port:
        assert proxy_mode("127.0.0.1", port) == mode


def test_nobody_answers() -> None:
    with answering(200, b"ipvs") as port:
        pass
    assert proxy_mode("127.0.0.1", port) == ""
    assert not proxy_health("127.0.0.1", port)


NOW = b'"2026-11-21 12:00:00 +0000 UTC"'
WELL = b'{"lastUpdated": %b,"currentTime": %b, "nodeEligible": true}' % (NOW, NOW)


@pytest.mark.parametrize(
    ("status", "body", "server_name", "found"),
    [
        (200, WELL, "", True),
        (503, WELL, "", True),
        (404, WELL, "", False),
        (200, WELL, "proxymode-agent/0.1.0", False),
        (200, b"ok", "", False),
        (200, b"[]", "", False),
        (200, b'{"status": "ok"}', "", False),
    ],
)
def test_kube_proxy_is_known_by_how_it_tells_of_its_health(
    status: int, body: bytes, server_name: str, found: bool
) -> None:
    """Its metrics may be configured to another address; clouds' load balancers look for its health here."""
    with answering(status, body, "/healthz", server_name) as port:
        assert proxy_health("127.0.0.1", port) is found
