"""Flags and environment, read once into one frozen object.

A flag wins over its environment variable. Names follow the Kubernetes components where they mean the same.
"""

from __future__ import annotations

import argparse
import os
import re
import socket
from dataclasses import dataclass
from datetime import timedelta
from importlib.metadata import version as distribution_version
from pathlib import Path
from typing import TYPE_CHECKING, Final

from proxymode_flags import BindAddress, bind_address, duration, log_format
from proxymode_log import LogFormat

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

LEASE_NAME: Final = "proxymode-operator"
_DNS_LABEL: Final = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")  # RFC 1123


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseTimes:
    """Leader election, as in client-go: a follower waits `duration` without a renewal; a leader that cannot renew
    stops after `renew_deadline`; both try every `retry_period`. So after a leader's death the other takes over within
    duration + retry_period, and what its first look at the cluster takes."""

    duration: timedelta = timedelta(seconds=12)
    renew_deadline: timedelta = timedelta(seconds=8)
    retry_period: timedelta = timedelta(seconds=1)

    def __post_init__(self) -> None:
        if not timedelta(0) < self.retry_period < self.renew_deadline < self.duration:
            raise ValueError(
                f"--leader-elect-retry-period ({self.retry_period}) < --leader-elect-renew-deadline "
                f"({self.renew_deadline}) < --leader-elect-lease-duration ({self.duration}) must hold"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything that can be set from outside."""

    kubeconfig: Path | None
    namespace: str
    identity: str
    metrics: BindAddress | None
    healthz: BindAddress | None
    leader_elect: bool
    lease: LeaseTimes
    logging_format: LogFormat


def parse(argv: Sequence[str], environ: Mapping[str, str] | None = None) -> Settings:
    """Reads flags and environment. Ends the process with a message that names the flag when one is wrong."""
    env = os.environ if environ is None else environ
    parser = flag_parser(env)
    args = parser.parse_args(argv)
    try:
        lease = LeaseTimes(
            duration=args.leader_elect_lease_duration,
            renew_deadline=args.leader_elect_renew_deadline,
            retry_period=args.leader_elect_retry_period,
        )
    except ValueError as error:
        parser.error(str(error))
    return Settings(
        kubeconfig=args.kubeconfig,
        namespace=args.namespace,
        identity=f"{env.get('POD_NAME') or socket.gethostname()}_{os.getpid()}",
        metrics=args.metrics_bind_address,
        healthz=args.healthz_bind_address,
        leader_elect=args.leader_elect,
        lease=lease,
        logging_format=args.logging_format,
    )


def flag_parser(env: Mapping[str, str]) -> argparse.ArgumentParser:
    """Every flag of the operator; `env` has defaults of some."""
    parser = argparse.ArgumentParser(
        prog="proxymode-operator",
        description="Carries ProxyModes out: tells the nodes, stage by stage, which Service dataplane to run.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--kubeconfig",
        type=_path,
        default=_path(env.get("KUBECONFIG", "")),
        metavar="FILE",
        help="kubeconfig file; default: $KUBECONFIG, else the pod's service account",
    )
    parser.add_argument(
        "--namespace",
        type=_namespace,
        default=env.get("NAMESPACE") or "proxymode-system",
        metavar="NAME",
        help="namespace of the Lease (default: $NAMESPACE or %(default)s)",
    )
    for what, answers, default in (
        ("metrics", "/metrics answers", "127.0.0.1:8080"),
        ("healthz", "/healthz, /livez and /readyz answer", "127.0.0.1:8081"),
    ):
        parser.add_argument(
            f"--{what}-bind-address",
            type=bind_address,
            default=bind_address(default),
            metavar="HOST:PORT",
            help=f"where {answers}; empty: nowhere (default: {default})",
        )
    parser.add_argument(
        "--leader-elect",
        action=argparse.BooleanOptionalAction,
        default=True,
        help=f"work only while holding the Lease {LEASE_NAME}; without it never run two replicas",
    )
    for name, default, what in (
        ("lease-duration", "12s", "a follower takes over after so long without a renewal"),
        ("renew-deadline", "8s", "a leader that cannot renew its Lease writes nothing after this"),
        ("retry-period", "1s", "how often leader and followers try"),
    ):
        parser.add_argument(
            f"--leader-elect-{name}",
            type=duration,
            default=duration(default),
            metavar="DURATION",
            help=f"{what} (default: {default})",
        )
    parser.add_argument(
        "--logging-format",
        type=log_format,
        default=LogFormat.LOGFMT,
        metavar="FORMAT",
        help="form of a log line: logfmt or json (default: %(default)s)",
    )
    version = distribution_version("proxymode")
    parser.add_argument("--version", action="version", version=f"proxymode-operator {version}")
    return parser


def _path(text: str) -> Path | None:
    return Path(text).expanduser() if text else None


def _namespace(text: str) -> str:
    if not _DNS_LABEL.fullmatch(text):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a namespace: write lower case letters, digits and '-', as in proxymode-system"
        )
    return text
