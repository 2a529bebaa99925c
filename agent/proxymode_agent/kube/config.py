"""Where the API server is and who we are: the Pod's own ServiceAccount; or as a kubeconfig file says (`kubeconfig`)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from proxymode_agent.kube.cluster import ClusterConfig, ConfigError, authority, content, is_url
from proxymode_agent.kube.credentials import Credential, FileCredentials, token_in

if TYPE_CHECKING:
    from collections.abc import Mapping

SERVICE_ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")


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
