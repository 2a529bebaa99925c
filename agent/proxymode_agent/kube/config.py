"""Where the API server is and who we are: the Pod's own ServiceAccount; or as a kubeconfig file says (`kubeconfig`)."""

from __future__ import annotations

import os
import ssl
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import msgspec

from proxymode_agent.kube.credentials import Credential, FileCredentials, token_in

if TYPE_CHECKING:
    from collections.abc import Mapping

    from proxymode_agent.kube.credentials import Credentials

SERVICE_ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")


class ConfigError(Exception):
    """What is said of the API server cannot be used; the message names file, field, value and what would be right."""


class ClusterConfig(msgspec.Struct, frozen=True):
    """How to reach one API server. `ca_data`: PEM; None: the system's certificate authorities. `ca_file`: where that
    was read, and others may be put."""

    server: str
    credentials: Credentials
    ca_data: bytes | None = None
    ca_file: Path | None = None
    insecure: bool = False
    tls_server_name: str | None = None


def load(path: Path | None) -> ClusterConfig:
    """The kubeconfig at `path`; None: the Pod's ServiceAccount. Raises ConfigError."""
    if path is None:
        return in_cluster()
    from proxymode_agent.kube.kubeconfig import from_kubeconfig

    return from_kubeconfig(path)


def in_cluster(root: Path = SERVICE_ACCOUNT, environ: Mapping[str, str] = os.environ) -> ClusterConfig:
    """The configuration that kubelet gives to every Pod. Raises ConfigError.

    KUBERNETES_SERVICE_HOST and _PORT name the API server; the agent's DaemonSet sets them to an address that does not
    need the Service network, which the agent itself is about to program.
    """
    host, port = environ.get("KUBERNETES_SERVICE_HOST"), environ.get("KUBERNETES_SERVICE_PORT")
    if not host or not port:
        raise ConfigError(
            "--kubeconfig is not given and this is not a Pod (KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT are "
            "not set); give --kubeconfig FILE"
        )
    token = root / "token"
    if not token.is_file():
        raise ConfigError(f"{token} does not exist; mount the ServiceAccount's token or give --kubeconfig FILE")
    server = f"https://{f'[{host}]' if ':' in host else host}:{port}"
    if not is_url(server):
        raise ConfigError(
            f"KUBERNETES_SERVICE_HOST is {host!r} and KUBERNETES_SERVICE_PORT {port!r}; they must be an address or a "
            "name, and a port, such as 10.0.0.1 and 6443"
        )
    ca_file = root / "ca.crt"
    return ClusterConfig(
        server=server,
        credentials=FileCredentials(lambda: Credential(token_in(token))),
        ca_data=authority(content(ca_file, "certificate authority"), f"certificate authority {ca_file}"),
        ca_file=ca_file,
    )


def is_url(server: str) -> bool:
    """Whether it names a server: scheme http or https, host, and a port that can be one."""
    try:
        url = urlsplit(server)
        return url.scheme in ("https", "http") and bool(url.hostname) and url.port != 0
    except ValueError:  # a port that is no number
        return False


def authority(data: bytes | None, where: str) -> bytes | None:
    """The PEM certificates, once it is sure that they can be used. Raises ConfigError, which says `where`."""
    if data is not None:
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=data.decode("ascii"))
        except (ssl.SSLError, UnicodeDecodeError) as error:
            raise ConfigError(f"{where} holds no PEM certificate: {error}") from error
    return data


def content(path: Path, what: str) -> bytes:
    """The file's content. Raises ConfigError, which calls it `what`."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{what} {path}: {error.strerror or error}") from error
