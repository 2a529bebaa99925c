"""Flags and environment of the operator."""

from __future__ import annotations

import json
import logging
from datetime import timedelta
from pathlib import Path

import pytest
from kubernetes.aio.config import ConfigException

from proxymode_flags import BindAddress
from proxymode_log import JsonFormatter, LogfmtFormatter
from proxymode_operator.kubeconfig import configuration
from proxymode_operator.settings import parse


def test_defaults() -> None:
    settings = parse([], {})
    assert settings.kubeconfig is None
    assert settings.namespace == "proxymode-system"
    assert settings.metrics == BindAddress("127.0.0.1", 8080)
    assert settings.healthz == BindAddress("127.0.0.1", 8081)
    assert settings.leader_elect
    assert settings.lease.duration == timedelta(seconds=12)


def test_a_flag_wins_over_the_environment() -> None:
    env = {"KUBECONFIG": "/a", "NAMESPACE": "from-env", "POD_NAME": "operator-0"}
    settings = parse(["--kubeconfig=/b"], env)
    assert settings.kubeconfig == Path("/b")
    assert settings.namespace == "from-env"
    assert settings.identity.startswith("operator-0_")


def test_an_empty_address_serves_nowhere_and_an_empty_host_everywhere() -> None:
    settings = parse(["--metrics-bind-address=", "--healthz-bind-address=:9000", "--no-leader-elect"], {})
    assert settings.metrics is None
    assert settings.healthz == BindAddress("0.0.0.0", 9000)
    assert settings.healthz.listening is None
    assert BindAddress("127.0.0.1", 9000).listening == "127.0.0.1"
    assert not settings.leader_elect
    assert parse(["--healthz-bind-address=[::1]:0"], {}).healthz == BindAddress("::1", 0)


@pytest.mark.parametrize(
    ("flag", "says"),
    [
        ("--metrics-bind-address=nowhere", "write it as in 127.0.0.1:10249"),
        ("--healthz-bind-address=h:99999", "write it as in 127.0.0.1:10249"),
        ("--leader-elect-lease-duration=soon", "is not a duration"),
        ("--leader-elect-renew-deadline=20s", "--leader-elect-lease-duration"),
        ("--logging-format=xml", "--logging-format: 'xml' is not a logging format; use logfmt or json"),
        ("--namespace=Kube_System", "--namespace: 'Kube_System' is not a namespace: write lower case letters"),
        ("--namespace=", "--namespace: '' is not a namespace"),
    ],
)
def test_a_wrong_flag_ends_with_what_would_be_right(flag: str, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse([flag], {})
    assert ended.value.code == 2
    assert says in capsys.readouterr().err


def test_log_lines_carry_their_fields() -> None:
    record = logging.makeLogRecord(
        {
            "name": "proxymode_operator.x",
            "levelname": "INFO",
            "msg": "node written",
            "node": "n 1",
            "settings": object(),
        }
    )
    line = LogfmtFormatter().format(record)
    assert 'level=info msg="node written" logger=x node="n 1"' in line
    assert "settings" not in line
    assert json.loads(JsonFormatter().format(record))["node"] == "n 1"


@pytest.mark.parametrize("content", [None, "", "just words", "a: [", "kind: Config"])
async def test_a_file_that_is_no_kubeconfig_is_named(content: str | None, tmp_path: Path) -> None:
    path = tmp_path / "kubeconfig"
    if content is not None:
        path.write_text(content)
    words = ": no such file" if content is None else ""
    with pytest.raises(ConfigException, match=f"--kubeconfig {path} cannot be used{words}"):
        await configuration(path)
