"""`python -m proxymode_testbeds.kubeproxy --mode MODE`: runs as kube-proxy in the network namespace that it is in.

Services come as JSON on stdin: `{"services": [...], "node_ips": [...], "cluster_cidrs": [...]}`. It is called
kube-proxy, removes what another mode of its own would have left, syncs, says `{"event": "synced"}`, answers on
127.0.0.1:10249/proxyMode, and syncs again every --sync-seconds. After SIGTERM it ends the sync that is under way, says
`{"event": "result"}` and ends; everything stays in the kernel.
"""

from __future__ import annotations

import argparse
import ctypes
import http.server
import json
import signal
import subprocess
import sys
import threading
from typing import Final

from proxymode_testbeds.kubeproxy.model import ProxyMode, Service, Variant
from proxymode_testbeds.kubeproxy.replay import script

_PR_SET_NAME: Final = 15
_METRICS: Final = ("127.0.0.1", 10249)
_CLEANUP: Final = {
    # k8s.io/kubernetes cmd/kube-proxy/app/server_linux.go, platformCleanup
    ProxyMode.NFTABLES: "if ip link show kube-ipvs0 >/dev/null 2>&1; then ipvsadm -C; ip link del kube-ipvs0; fi",
    ProxyMode.IPTABLES: "nft delete table ip kube-proxy; nft delete table ip6 kube-proxy",
    ProxyMode.IPVS: "nft delete table ip kube-proxy; nft delete table ip6 kube-proxy",
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="kube-proxy")
    parser.add_argument("--mode", type=ProxyMode, required=True, choices=list(ProxyMode))
    parser.add_argument("--iptables", type=Variant, default=Variant.NFT, choices=list(Variant))
    parser.add_argument("--sync-seconds", type=float, default=30.0)
    options = parser.parse_args()
    ctypes.CDLL(None).prctl(_PR_SET_NAME, b"kube-proxy", 0, 0, 0)
    told = json.load(sys.stdin)
    rules = script(
        options.mode,
        [Service.from_json(raw) for raw in told["services"]],
        node_ips=told["node_ips"],
        cluster_cidrs=told["cluster_cidrs"],
        variant=options.iptables,
    )
    _serve(options.mode)
    _sh(_CLEANUP[options.mode], check=False)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda number, frame: stop.set())
    while not stop.is_set():
        done = _sh(rules, check=False)
        event = {"event": "error", "message": done.stderr} if done.returncode else {"event": "synced"}
        print(json.dumps(event), flush=True)
        stop.wait(options.sync_seconds)
    print(json.dumps({"event": "result"}), flush=True)


def _sh(text: str, *, check: bool) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["sh", "-e"], input=text, text=True, capture_output=True, check=check)


def _serve(mode: ProxyMode) -> None:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = mode.encode() if self.path == "/proxyMode" else b"ok"
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the base class's own name)
            pass

    threading.Thread(target=http.server.HTTPServer(_METRICS, Handler).serve_forever, daemon=True).start()


if __name__ == "__main__":
    main()
