"""A client of the cluster that a kubeconfig names, read as kubectl reads it; what is wrong with the file is one line.

Deliberately asks the cluster nothing.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from kubernetes.client import Configuration
from kubernetes.config import ConfigException, new_client_from_config

from proxymode_cli.errors import ExitCode, UserError, one_line
from yaml import YAMLError

if TYPE_CHECKING:
    from kubernetes.client import ApiClient

UNUSABLE: Final = (ConfigException, OSError, ValueError, TypeError, KeyError, AttributeError, YAMLError)
"""What the Kubernetes client raises over a kubeconfig that is none: it trusts the file's shape."""


def client(kubeconfig: str | None, context: str | None) -> ApiClient:
    """None: as kubectl would take it. Raises UserError where the kubeconfig cannot be used."""
    configuration = Configuration()
    configuration.retries = False
    where = kubeconfig or os.environ.get("KUBECONFIG") or "~/.kube/config"
    complaints = _Complaints()
    try:
        with complaints:
            made: ApiClient = new_client_from_config(  # type: ignore[no-untyped-call]
                config_file=kubeconfig, context=context, persist_config=False, client_configuration=configuration
            )
    except UNUSABLE as error:
        raise UserError(f"kubeconfig {where} cannot be used: {_why(where, error)}", ExitCode.CLUSTER) from error
    if complaints.heard:
        said = " ".join(complaints.heard[0].split())
        raise UserError(f"kubeconfig {where}: its credential plugin fails: {said}", ExitCode.CLUSTER)
    server = str(configuration.host)
    if not server.startswith(("https://", "http://")):
        raise UserError(
            f"kubeconfig {where}: server {server!r} is no address: write https://HOST:PORT", ExitCode.CLUSTER
        )
    return made


class _Complaints(logging.Handler):
    """Takes the errors that the Kubernetes client logs, and then goes on without credentials, away from the screen."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.heard: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.heard.append(record.getMessage())

    def __enter__(self) -> None:
        logging.getLogger().addHandler(self)

    def __exit__(self, *_: object) -> None:
        logging.getLogger().removeHandler(self)


def _why(where: str, error: BaseException) -> str:
    """What the client does not say: to it a file that is not there is an empty one, and every file is a mapping."""
    files = [Path(name).expanduser() for name in where.split(os.pathsep) if name]
    if not any(file.exists() for file in files):
        return "no such file; name one by --kubeconfig or $KUBECONFIG"
    if isinstance(error, TypeError | KeyError | AttributeError):
        return "it is not a mapping with clusters, users and contexts, as kubeconfig files are"
    return one_line(error)
