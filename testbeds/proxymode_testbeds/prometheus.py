"""Debian's Prometheus and promtool, from the cache: what a fleet's monitoring would make of our metrics, alerts and
dashboard.

The server runs in a network namespace, or on this host's loopback, scrapes every second what it is told there, and
keeps its data in a folder of the test's; it ends with the block, or with the namespace. Queries go over its HTTP API.
`python -m proxymode_testbeds.prometheus` fetches the package and prints its version.
"""

from __future__ import annotations

import json
import re
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import yaml
from proxymode_testbeds import debs, netns

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

SUITE: Final = "bookworm"
DEADLINE_SECONDS: Final = 180.0
_LISTENS: Final = re.compile(r'msg="Listening on" address=127\.0\.0\.1:(\d+)')


class PrometheusError(Exception):
    """Prometheus does not run or does not answer; the message has its own words."""


def folder() -> Path:
    """Where `prometheus` and `promtool` are. Raises proxymode_testbeds.debs.DebianError where they cannot be had."""
    return debs.unpack(SUITE, ["prometheus"]) / "usr/bin"


def promtool(*arguments: str | Path, stdin: bytes = b"") -> subprocess.CompletedProcess[str]:
    """What promtool says, on stdout and stderr, and its exit status."""
    command = [str(folder() / "promtool"), *map(str, arguments)]
    done = subprocess.run(command, input=stdin, capture_output=True, check=False)
    return subprocess.CompletedProcess(command, done.returncode, done.stdout.decode(), done.stderr.decode())


class Prometheus:
    """A running server; `ask` as often as you like."""

    def __init__(self, namespace: str | None, process: subprocess.Popen[str], log: Path) -> None:
        self._namespace = namespace
        self._process = process
        self._log = log
        self._port = 0

    def ask(self, expr: str) -> list[dict[str, Any]]:
        """The samples of an instant query: each a mapping with `metric`, its labels, and `value`, [time, text].

        Raises PrometheusError when it does not understand the query or does not answer.
        """
        data = self._get("/api/v1/query?" + urllib.parse.urlencode({"query": expr}))
        found: list[dict[str, Any]] = data["result"]
        return found

    @property
    def url(self) -> str:
        """Where it listens, inside its namespace."""
        return f"http://127.0.0.1:{self._port}"

    def rules(self) -> dict[str, str]:
        """Every alert by its state: inactive, pending or firing. Raises PrometheusError for one that fails."""
        states = {}
        for group in self._get("/api/v1/rules")["groups"]:
            for rule in group["rules"]:
                if rule["health"] == "err":
                    raise PrometheusError(f"{rule['name']}: {rule['lastError']}")
                states[rule["name"]] = rule["state"]
        return states

    def wait_until_ready(self) -> None:
        """Until it listens. Raises PrometheusError."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        while time.monotonic() < deadline and self._process.poll() is None:
            if listens := _LISTENS.search(self._log.read_text()):
                self._port = int(listens[1])
                return
            time.sleep(0.05)
        raise PrometheusError(f"Prometheus does not listen:\n{self._log.read_text()}")

    def _get(self, path: str) -> dict[str, Any]:
        def fetch() -> bytes:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._port}{path}", timeout=DEADLINE_SECONDS) as response:
                body: bytes = response.read()
                return body

        try:
            answer = json.loads(netns.call(self._namespace, fetch) if self._namespace else fetch())
        except urllib.error.HTTPError as error:
            raise PrometheusError(f"{path}: {error.read().decode()}") from error
        except OSError as error:
            raise PrometheusError(f"{path}: {error}\n{self._log.read_text()}") from error
        data: dict[str, Any] = answer["data"]
        return data


@contextmanager
def prometheus(
    namespace: str | None,
    home: Path,
    targets: Mapping[str, tuple[str, dict[str, str]]],
    rules: Path | None = None,
) -> Iterator[Prometheus]:
    """A server in the namespace (None: on this host) until the block ends. `targets`: job to address and further
    labels."""
    home.mkdir()
    config = {
        "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(rules)] if rules is not None else [],
        "scrape_configs": [
            {"job_name": job, "static_configs": [{"targets": [address], "labels": labels}]}
            for job, (address, labels) in targets.items()
        ],
    }
    (home / "prometheus.yml").write_text(yaml.safe_dump(config))
    command = [
        str(folder() / "prometheus"),
        f"--config.file={home / 'prometheus.yml'}",
        f"--storage.tsdb.path={home / 'data'}",
        "--web.listen-address=127.0.0.1:0",
    ]
    log = home / "prometheus.log"
    with log.open("w") as output:
        options: dict[str, Any] = {"stdout": output, "stderr": output, "stdin": subprocess.DEVNULL}
        if namespace is None:
            process = subprocess.Popen(command, text=True, **options)
        else:
            process = netns.popen(namespace, command, **options)
    server = Prometheus(namespace, process, log)
    try:
        server.wait_until_ready()
        yield server
    finally:
        process.kill()
        process.wait()


if __name__ == "__main__":
    print(promtool("--version").stdout.splitlines()[0])
