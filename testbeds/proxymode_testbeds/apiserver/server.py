"""Starts and stops one API server with its etcd, and hands out what clients need: kubeconfig files and kubectl.

Everything lives in one folder given by the caller: state, logs, certificates, tokens, kubeconfig files. The caller's
own KUBECONFIG and ~/.kube are never read or written.
"""

from __future__ import annotations

import asyncio
import base64
import http.client
import json
import os
import ssl
import sys
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from proxymode_testbeds import cache
from proxymode_testbeds.polling import eventually
from proxymode_testbeds.ports import free_port

from . import audit, build
from .processes import ServerProcess, running
from .tokens import TokenReviewWebhook, Tokens

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

ADMIN = "admin"
START_DEADLINE_SECONDS = 180.0
# A qemu guest with user networking finds the host's loopback interface there.
GUEST_VIEW_OF_HOST = "10.0.2.2"
NODE_NAME = "authentication.kubernetes.io/node-name"


class StartError(Exception):
    """The API server did not become ready; the message ends with the tail of its logs."""


class KubectlError(Exception):
    """kubectl failed; the message has its arguments and what it said."""


@dataclass(frozen=True, slots=True)
class Completed:
    """What a kubectl command printed."""

    stdout: str
    stderr: str

    def json(self) -> Any:
        """The output of a command run with `-o json`."""
        return json.loads(self.stdout)


class ApiServer:
    """A running API server. Made by `ApiServer.start`, gone when that block ends."""

    def __init__(self, folder: Path, assets: Path, url: str, tokens: Tokens, *, is_real: bool) -> None:
        self.folder = folder
        self.url = url
        self.is_real = is_real
        self.ca_file = folder / "apiserver.crt"
        self.kubectl_path = assets / "kubectl"
        self._tokens = tokens

    @classmethod
    @asynccontextmanager
    async def start(
        cls, folder: Path, *, bind_address: str = "127.0.0.1", kube_version: str | None = None
    ) -> AsyncIterator[ApiServer]:
        """Run an API server with an empty store in this folder.

        `kube_version` ("v1.39.0") is what /version answers; nothing else changes with it, and a real kube-apiserver
        cannot pretend. The first start on a machine builds the binaries, which takes minutes.

        Enter from a thread that outlives the block: the servers die with it. Raises StartError, build.BuildError,
        debs.DebianError, and ValueError if a real kube-apiserver should pretend.
        """
        configured = os.environ.get("KUBEBUILDER_ASSETS")
        if configured and kube_version:
            raise ValueError(f"kube_version {kube_version!r}: the kube-apiserver in KUBEBUILDER_ASSETS cannot pretend")
        assets = _complete(Path(configured)) if configured else await asyncio.to_thread(build.assets)
        tokens = _tokens_of(folder)
        port = free_port(bind_address)
        url = f"https://{'127.0.0.1' if bind_address == '0.0.0.0' else bind_address}:{port}"
        async with AsyncExitStack() as stack:
            etcd = await stack.enter_async_context(running(_etcd_command(assets), folder / "etcd.log"))
            (folder / "audit-policy.yaml").write_text(audit.POLICY)
            command = [str(assets / "kube-apiserver"), *_common_flags(folder, bind_address, port)]
            if configured:
                webhook = stack.enter_context(TokenReviewWebhook(tokens))
                command += await _real_flags(folder, webhook)
            else:
                command += [f"--token-file={tokens.path}"]
                command += [f"--kube-version={kube_version}"] if kube_version else []
            server = await stack.enter_async_context(running(command, folder / "kube-apiserver.log"))
            api = cls(folder, assets, url, tokens, is_real=bool(configured))
            await api._wait_until_ready([etcd, server])
            yield api

    def add_token(
        self,
        name: str,
        groups: Sequence[str] = (),
        extra: Mapping[str, Sequence[str]] | None = None,
        *,
        holder: str | None = None,
    ) -> str:
        """Add or replace a user; return the user's bearer token, valid at once.

        A `holder` tells several tokens of one user apart; `kubeconfig` and `kubectl` then take the holder as user.

        Every user also gets the group system:authenticated. A service account's name is
        `system:serviceaccount:<namespace>:<name>`; a token bound to a node has the extra
        `authentication.kubernetes.io/node-name`.
        """
        return self._tokens.add(name, groups, extra, holder=holder)

    def add_service_account(self, namespace: str, name: str, *, node: str | None = None) -> str:
        """Add a token as a Pod with this ServiceAccount has it, on this node if one is named; return its holder.

        What the ServiceAccount may do is for Roles and bindings to say; the object itself need not exist.
        """
        user = f"system:serviceaccount:{namespace}:{name}"
        holder = user if node is None else f"{user} on {node}"
        extra = {NODE_NAME: [node]} if node is not None else None
        self._tokens.add(user, _service_account_groups(namespace), extra, holder=holder)
        return holder

    def add_daemon_set(self, namespace: str, name: str, nodes: Sequence[str]) -> dict[str, str]:
        """Add a token for a Pod with this ServiceAccount on each of the nodes; return the tokens by node."""
        user = f"system:serviceaccount:{namespace}:{name}"
        extra_of = {f"{user} on {node}": {NODE_NAME: [node]} for node in nodes}
        tokens = self._tokens.add_all(user, _service_account_groups(namespace), extra_of)
        return dict(zip(nodes, tokens, strict=True))

    def requests(self) -> list[audit.Request]:
        """What ServiceAccounts have asked for so far, refused requests included."""
        return audit.read(self.folder / "audit.log")

    def kubeconfig(self, user: str = ADMIN, server: str | None = None) -> Path:
        """Write a kubeconfig file for a user and return its path.

        `server` replaces the URL; a VM's guests use `api.guest_url`. The file holds the certificate authority and the
        token, so it can be copied. Raises LookupError for a user without a token.
        """
        cluster = {
            "server": server or self.url,
            "certificate-authority-data": base64.b64encode(self.ca_file.read_bytes()).decode(),
        }
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "test", "cluster": cluster}],
            "users": [{"name": user, "user": {"token": self._tokens.of(user)}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": user}}],
            "current-context": "test",
        }
        readable = "".join(letter if letter.isalnum() or letter in ".-" else "-" for letter in user)
        path = self.folder / f"{readable}-{cache.digest([user, cluster['server']])}.kubeconfig"
        path.touch(mode=0o600)
        path.write_text(yaml.safe_dump(config, sort_keys=False))
        return path

    @property
    def guest_url(self) -> str:
        """The server's address for the guest of a VM on this machine (qemu user networking)."""
        return f"https://{GUEST_VIEW_OF_HOST}:{self.url.rpartition(':')[2]}"

    async def kubectl(self, *arguments: str, user: str = ADMIN, stdin: str | bytes | None = None) -> Completed:
        """Run kubectl as a user and return what it printed. Raises KubectlError if it fails.

        Plugins are found in this Python's own folder, so `kubectl("proxymode", ...)` runs the checkout's.
        """
        environment = {
            "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
            "HOME": str(self.folder),
            "KUBECONFIG": str(self.kubeconfig(user)),
        }
        process = await asyncio.create_subprocess_exec(
            *(str(self.kubectl_path), *arguments),
            env=environment,
            stdin=asyncio.subprocess.DEVNULL if stdin is None else asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            out, err = await process.communicate(stdin.encode() if isinstance(stdin, str) else stdin)
        except BaseException:
            if process.returncode is None:
                process.kill()
            raise
        completed = Completed(out.decode(), err.decode())
        if process.returncode != 0:
            said = (completed.stderr + completed.stdout).strip()
            raise KubectlError(f"kubectl {' '.join(arguments)}: status {process.returncode}: {said}")
        return completed

    async def served(self, *crds: str) -> None:
        """Wait until custom resources such as "proxymodes.proxymode.io" can be used and kubectl explains them."""
        await self.kubectl("wait", "--for=condition=Established", "--timeout=180s", "crd", *crds)
        for crd in crds:
            await eventually(partial(self._explains, crd.partition(".")[0]), f"kubectl explains {crd}")
            await eventually(partial(self._lists, crd), f"kubectl lists {crd}")

    async def _explains(self, kind: str) -> bool:
        # Schemas are published some time after a CRD is established.
        try:
            return "DESCRIPTION:" in (await self.kubectl("explain", kind)).stdout
        except KubectlError:
            return False

    async def _lists(self, crd: str) -> bool:
        # Until the server's memory of a new resource is there, lists are answered with 429 (TooManyRequests).
        try:
            await self.kubectl("get", crd)
        except KubectlError:
            return False
        return True

    async def _wait_until_ready(self, processes: Sequence[ServerProcess]) -> None:
        clock = asyncio.get_running_loop()
        deadline = clock.time() + START_DEADLINE_SECONDS
        while not await asyncio.to_thread(self._is_ready):
            dead = [process for process in processes if not process.alive]
            if dead or clock.time() > deadline:
                why = "a process died" if dead else f"not ready after {START_DEADLINE_SECONDS:.0f} s"
                tails = "\n".join(process.log_tail() for process in processes)
                raise StartError(f"the API server at {self.url} did not start: {why}\n{tails}")
            await asyncio.sleep(0.05)

    def _is_ready(self) -> bool:
        try:
            trust = ssl.create_default_context(cafile=self.ca_file)
            host, _, port = self.url.removeprefix("https://").rpartition(":")
            connection = http.client.HTTPSConnection(host, int(port), timeout=5, context=trust)
            try:
                connection.request("GET", "/readyz", headers={"Authorization": f"Bearer {self._tokens.of(ADMIN)}"})
                return connection.getresponse().status == http.HTTPStatus.OK
            finally:
                connection.close()
        except (OSError, http.client.HTTPException):
            return False


def _complete(assets: Path) -> Path:
    missing = [name for name in ("etcd", "kube-apiserver", "kubectl") if not (assets / name).is_file()]
    if missing:
        raise StartError(f"KUBEBUILDER_ASSETS {str(assets)!r}: there is no {', no '.join(missing)} in that folder")
    return assets


def _service_account_groups(namespace: str) -> list[str]:
    return ["system:serviceaccounts", f"system:serviceaccounts:{namespace}"]


def _tokens_of(folder: Path) -> Tokens:
    folder.mkdir(parents=True, exist_ok=True)
    tokens = Tokens(folder / "tokens.json")
    tokens.add(ADMIN, ["system:masters"])
    return tokens


def _etcd_command(assets: Path) -> list[str]:
    # A socket in the working folder needs no port, and its relative name cannot become too long.
    return [
        str(assets / "etcd"),
        *("--data-dir=etcd", "--unsafe-no-fsync", "--log-level=warn"),
        *("--listen-client-urls=unix://etcd.sock", "--advertise-client-urls=http://localhost:2379"),
        "--listen-peer-urls=unix://peer.sock",
    ]


def _common_flags(folder: Path, bind_address: str, port: int) -> list[str]:
    return [
        "--etcd-servers=unix:etcd.sock",
        f"--bind-address={bind_address}",
        f"--secure-port={port}",
        f"--cert-dir={folder}",
        f"--audit-policy-file={folder / 'audit-policy.yaml'}",
        f"--audit-log-path={folder / 'audit.log'}",
    ]


async def _real_flags(folder: Path, webhook: str) -> list[str]:
    """What a real kube-apiserver needs besides; RBAC is on, service account tokens are signed by a throw-away key."""
    key = folder / "service-account.key"
    generate = await asyncio.create_subprocess_exec(
        *("openssl", "genrsa", "-out", str(key), "2048"), stderr=asyncio.subprocess.DEVNULL
    )
    if await generate.wait() != 0:
        raise StartError(f"openssl genrsa failed with status {generate.returncode}")
    review = folder / "token-review.kubeconfig"
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "webhook", "cluster": {"server": webhook}}],
        "contexts": [{"name": "webhook", "context": {"cluster": "webhook", "user": ""}}],
        "current-context": "webhook",
    }
    review.write_text(yaml.safe_dump(config))
    return [
        # Its self-signed certificate names the advertised address.
        f"--advertise-address={GUEST_VIEW_OF_HOST}",
        f"--authentication-token-webhook-config-file={review}",
        "--authentication-token-webhook-version=v1",
        "--authentication-token-webhook-cache-ttl=1s",
        f"--service-account-key-file={key}",
        f"--service-account-signing-key-file={key}",
        "--service-account-issuer=https://kubernetes.default.svc",
        "--service-cluster-ip-range=10.96.0.0/16,fd96::/112",
        "--authorization-mode=RBAC",
        "--disable-admission-plugins=ServiceAccount",
        "--endpoint-reconciler-type=none",
    ]
