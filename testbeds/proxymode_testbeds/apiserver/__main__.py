"""`python -m proxymode_testbeds.apiserver build` makes the binaries; `... run` runs a server until Ctrl-C."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
import tempfile
from pathlib import Path

from proxymode_testbeds.debs import DebianError

from . import ApiServer
from .build import BuildError, assets
from .server import StartError


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m proxymode_testbeds.apiserver", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("build", help="build into the cache and print the folder")
    run = commands.add_parser("run", help="run an empty API server in the foreground")
    run.add_argument("--bind-address", default="127.0.0.1", help="default: %(default)s")
    run.add_argument("--kube-version", help="what /version answers, such as v1.39.0")
    arguments = parser.parse_args()
    try:
        if arguments.command == "build":
            print(assets())
            return
        with tempfile.TemporaryDirectory(prefix="proxymode-apiserver-") as folder:
            asyncio.run(_serve(Path(folder), arguments.bind_address, arguments.kube_version))
    except (BuildError, DebianError, StartError, ValueError) as error:
        sys.exit(f"error: {error}")


async def _serve(folder: Path, bind_address: str, kube_version: str | None) -> None:
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    async with ApiServer.start(folder, bind_address=bind_address, kube_version=kube_version) as api:
        print(f"API server: {api.url}")
        print(f"export KUBECONFIG={api.kubeconfig()}")
        print(f"kubectl:    {api.kubectl_path}", flush=True)
        await stopped.wait()


if __name__ == "__main__":
    main()
