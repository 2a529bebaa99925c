"""Credentials from a program that a kubeconfig names: run when they are first asked for, and when they expire.

The protocol is client-go's (k8s.io/client-go/pkg/apis/clientauthentication). Imported where a kubeconfig asks for it:
a Pod has none. It never talks to a terminal.
"""

from __future__ import annotations

import asyncio
import json
import os
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from proxymode_agent.kube.credentials import ClientCertificate, Credential, CredentialError, bearer

EXEC_TIMEOUT_SECONDS: Final = 60.0
EXEC_EXPIRY_MARGIN_SECONDS: Final = 10.0
"""A credential that expires within this time is renewed before it is used."""


class ExecPlugin(msgspec.Struct, frozen=True):
    """`users[].user.exec` of a kubeconfig (client.authentication.k8s.io)."""

    api_version: str
    command: str
    args: tuple[str, ...] = ()
    env: tuple[tuple[str, str], ...] = ()
    install_hint: str = ""
    cluster: dict[str, Any] | None = None
    """ExecCredential.spec.cluster, where `provideClusterInfo` asks for it."""


class ExecCredentials:
    """Credentials from an exec plugin, kept until they expire or the server refuses them."""

    def __init__(self, plugin: ExecPlugin) -> None:
        self.plugin: Final = plugin
        self._credential: Credential | None = None
        self._expires: datetime | None = None
        self._running = asyncio.Lock()

    async def current(self) -> Credential:
        async with self._running:
            if self._credential is None or self._expired():
                self._credential, self._expires = parse_exec_credential(self.plugin, await self._run())
            return self._credential

    def invalidate(self) -> None:
        self._credential = None

    def _expired(self) -> bool:
        if self._expires is None:
            return False
        return (self._expires - datetime.now(UTC)).total_seconds() < EXEC_EXPIRY_MARGIN_SECONDS

    async def _run(self) -> bytes:
        plugin = self.plugin
        spec: dict[str, Any] = {"interactive": False}
        if plugin.cluster is not None:
            spec["cluster"] = plugin.cluster
        info = {"apiVersion": plugin.api_version, "kind": "ExecCredential", "spec": spec}
        env = os.environ | dict(plugin.env) | {"KUBERNETES_EXEC_INFO": json.dumps(info)}
        try:
            process = await asyncio.create_subprocess_exec(
                plugin.command,
                *plugin.args,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                env=env,
            )
        except OSError as error:
            hint = f"; {plugin.install_hint.strip()}" if plugin.install_hint else ""
            raise CredentialError(f"exec plugin {plugin.command}: {error.strerror or error}{hint}") from error
        try:
            async with asyncio.timeout(EXEC_TIMEOUT_SECONDS):
                stdout, stderr = await process.communicate()
        except TimeoutError as error:
            raise CredentialError(
                f"exec plugin {plugin.command} gave no answer within {EXEC_TIMEOUT_SECONDS:.0f} s"
            ) from error
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if process.returncode != 0:
            reason = stderr.decode(errors="replace").strip()[-500:]
            raise CredentialError(f"exec plugin {plugin.command} ended with status {process.returncode}: {reason}")
        return stdout


def parse_exec_credential(plugin: ExecPlugin, output: bytes) -> tuple[Credential, datetime | None]:
    """An exec plugin's output as a credential and its expiry. Raises CredentialError that says what is wrong.

    Source: k8s.io/client-go/pkg/apis/clientauthentication/v1, ExecCredential.
    """
    where = f"exec plugin {plugin.command}"
    try:
        document = json.loads(output)
    except ValueError as error:
        raise CredentialError(f"{where}: output is not JSON: {error}") from error
    if not isinstance(document, dict) or document.get("kind") != "ExecCredential":
        raise CredentialError(f"{where}: output is not an ExecCredential object")
    if document.get("apiVersion") != plugin.api_version:
        raise CredentialError(
            f"{where}: answered with apiVersion {document.get('apiVersion')!r}, "
            f"the kubeconfig asks for {plugin.api_version!r}"
        )
    status = document.get("status")
    if not isinstance(status, dict):
        raise CredentialError(f"{where}: ExecCredential has no status")
    token, certificate, key = (status.get(name) for name in ("token", "clientCertificateData", "clientKeyData"))
    if not all(value is None or isinstance(value, str) for value in (token, certificate, key)):
        raise CredentialError(f"{where}: token, clientCertificateData and clientKeyData must be strings")
    if bool(certificate) != bool(key):
        raise CredentialError(f"{where}: clientCertificateData and clientKeyData must be given together")
    if not token and not certificate:
        raise CredentialError(f"{where}: status holds neither a token nor a client certificate")
    pair = ClientCertificate(certificate.encode(), key.encode()) if certificate and key else None
    credential = Credential(bearer(token, f"{where}: status.token") if token else None, pair)
    return credential, _expiry(where, status.get("expirationTimestamp"))


def _expiry(where: str, text: object) -> datetime | None:
    if text is None:
        return None
    try:
        expires = datetime.fromisoformat(str(text))
    except ValueError as error:
        raise CredentialError(f"{where}: expirationTimestamp {text!r} is not an RFC 3339 time") from error
    return expires if expires.tzinfo else expires.replace(tzinfo=UTC)
