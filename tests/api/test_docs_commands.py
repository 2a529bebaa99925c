"""Every command that README and Getting started tell a reader to type is typed here, in their order.

A console block is marked by a comment before it: `run` is run line by line; `watches` goes on until somebody stops it,
so it is stopped once it has printed something; `agent` is read by the agent's own flag parser, since it would take over
this machine; `elsewhere: PATH` is run by that test. A block without a mark fails.
"""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import signal
import sys
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

from proxymode_agent import flags

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from proxymode_testbeds.apiserver import ApiServer

ROOT = Path(__file__).parents[2]
DEADLINE_SECONDS = 180.0
WATCHED_SECONDS = 1.5  # what ends by itself has ended by then; on a slower machine this shows less
PAGES = ("README.md", "docs/getting-started.md", "docs/demo.md")
TYPED = PAGES[:2]
BLOCK = re.compile(r"(?:<!-- (?P<mark>[^\n]*) -->\n)?```console\n(?P<text>.*?)```", re.DOTALL)

KUBEADM = """
apiVersion: v1
kind: ConfigMap
metadata: {name: kube-proxy, namespace: kube-system}
data: {config.conf: "kind: KubeProxyConfiguration\\nmode: ipvs\\n"}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: kubeadm-config, namespace: kube-system}
data: {ClusterConfiguration: "controlPlaneEndpoint: control-plane.example.org:6443\\n"}
"""


class Block(NamedTuple):
    page: str
    mark: str
    commands: tuple[str, ...]


def blocks(page: str) -> list[Block]:
    """The console blocks of a page and what is typed in each."""
    found = BLOCK.finditer((ROOT / page).read_text(encoding="utf-8"))
    typed = ((match["mark"] or "", match["text"].splitlines()) for match in found)
    return [
        Block(page, mark, tuple(line.removeprefix("$ ") for line in lines if line.startswith("$ ")))
        for mark, lines in typed
    ]


ALL = [block for page in PAGES for block in blocks(page)]


@pytest.mark.parametrize("page", PAGES)
def test_every_block_says_how_it_is_tried(page: str) -> None:
    for block in blocks(page):
        kind, _, where = block.mark.partition(": ")
        assert kind in {"run", "watches", "agent", "elsewhere"}, f"{page}: mark the block of {block.commands}"
        assert kind != "elsewhere" or (ROOT / where).is_file(), f"{page}: {where} is not there"
        assert block.commands


@pytest.mark.parametrize("block", [block for block in ALL if block.mark == "agent"], ids=str)
def test_the_agent_takes_these_flags(block: Block) -> None:
    for command in block.commands:
        program, *arguments = shlex.split(command.replace('"$(hostname)"', "node1"), comments=True)
        assert program == "proxymode-agent"
        flags.parse(arguments)


@pytest.mark.parametrize("page", TYPED)
async def test_what_a_reader_types_works(page: str, empty_api: ApiServer) -> None:
    await empty_api.kubectl("apply", "--filename=-", stdin=KUBEADM)
    for block in blocks(page):
        for command in block.commands:
            if block.mark == "run":
                code, said = await typed(empty_api, command)
                assert code == 0, f"{page}: {command}\n{said}"
            elif block.mark == "watches":
                await watched(empty_api, page, command)


async def typed(api: ApiServer, command: str) -> tuple[int | None, str]:
    """The exit code of a line typed at the root of the checkout, and all that it printed."""
    async with shell(api, command) as process, asyncio.timeout(DEADLINE_SECONDS):
        out, _ = await process.communicate()
    return process.returncode, out.decode()


async def watched(api: ApiServer, page: str, command: str) -> None:
    """Fails unless the line prints something and does not end by itself."""
    async with shell(api, command) as process:
        assert process.stdout is not None
        async with asyncio.timeout(DEADLINE_SECONDS):
            said = await process.stdout.readline()
        assert said, f"{page}: {command} says nothing"
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(WATCHED_SECONDS):
                said += await process.stdout.read()
        assert process.returncode is None, f"{page}: {command} has ended\n{said.decode()}"


@asynccontextmanager
async def shell(api: ApiServer, command: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """A line typed at the root of the checkout; it and what it started are killed at the end of the block."""
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}:{api.kubectl_path.parent}:/usr/bin:/bin",
        "KUBECONFIG": str(api.kubeconfig()),
    }
    process = await asyncio.create_subprocess_exec(
        *("bash", "-euo", "pipefail", "-c", command),
        cwd=ROOT,
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
