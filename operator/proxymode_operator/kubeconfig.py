"""How to reach the API server: a kubeconfig file, or the pod's service account, read by the Kubernetes client's loader.

Solves: whatever is wrong with either ends in one kind of error that says what, and where. Deliberately makes no
request.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.request import getproxies

from kubernetes.aio import client as k8s
from kubernetes.aio import config as k8s_config

if TYPE_CHECKING:
    from collections.abc import Sequence


async def configuration(kubeconfig: Path | None) -> k8s.Configuration:
    """From a kubeconfig file, or from the pod's service account. Raises ConfigException with what is wrong where."""
    found = k8s.Configuration()
    # To look for a proxy takes aiohttp two threads for each request.
    found.client_session_kwargs = {"trust_env": bool(getproxies())}
    try:
        if kubeconfig is not None:
            _some_file(str(kubeconfig).split(os.pathsep))
            await k8s_config.load_kube_config(  # type: ignore[no-untyped-call]
                config_file=str(kubeconfig), client_configuration=found
            )
        else:
            k8s_config.load_incluster_config(client_configuration=found)  # type: ignore[no-untyped-call]
    except Exception as error:
        # The loader meets a file that is no kubeconfig with whatever error comes up first.
        where = f"--kubeconfig {kubeconfig} cannot be used" if kubeconfig else "no --kubeconfig given, and not in a Pod"
        raise k8s_config.ConfigException(f"{where}: {error}") from error
    return found


def _some_file(paths: Sequence[str]) -> None:
    """Several are merged, and the loader passes over those that are not there, as kubectl does. Raises OSError."""
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            Path(path).stat()
            return
    raise FileNotFoundError("no such file")
