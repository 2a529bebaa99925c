"""Who the agent is to the API server: static credentials, a token file that is rotated, an exec plugin.

A provider is asked before every request and told when the server answered 401; it decides itself what to cache. It
knows nothing about requests, and the kubeconfig's fields are read in `config`, not here.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, Protocol

if TYPE_CHECKING:
    from pathlib import Path


class CredentialError(Exception):
    """Credentials could not be obtained now; the message names the file or the plugin. Worth another try later."""


@dataclass(frozen=True, slots=True)
class ClientCertificate:
    """An X.509 client certificate chain and its private key, both PEM."""

    certificate: bytes
    key: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Credential:
    """What one request authenticates with; both absent: anonymous."""

    token: str | None = field(default=None, repr=False)
    certificate: ClientCertificate | None = None


class Credentials(Protocol):
    """A provider of credentials."""

    async def current(self) -> Credential:
        """The credential for the next request. Raises CredentialError."""
        ...

    def invalidate(self) -> None:
        """The server refused the last one with 401: do not return it from a cache."""
        ...


@dataclass(frozen=True, slots=True)
class StaticCredentials:
    """Token or client certificate written in the kubeconfig; nothing to renew."""

    credential: Credential

    async def current(self) -> Credential:
        return self.credential

    def invalidate(self) -> None:
        """Nothing else could be returned."""


TOKEN_FILE_SECONDS: Final = 60.0
"""How long a token read from a file is used before the file is read again (client-go: one minute)."""


@dataclass(slots=True)
class TokenFileCredentials:
    """A bearer token in a file that somebody else renews: a projected ServiceAccount token, or `tokenFile`."""

    path: Path
    certificate: ClientCertificate | None = None
    _token: str | None = field(default=None, init=False, repr=False)
    _read_at: float = field(default=0.0, init=False)

    async def current(self) -> Credential:
        now = time.monotonic()
        if self._token is None or now - self._read_at >= TOKEN_FILE_SECONDS:
            self._token = self._read()
            self._read_at = now
        return Credential(self._token, self.certificate)

    def invalidate(self) -> None:
        self._token = None

    def _read(self) -> str:
        # A few hundred bytes from a tmpfs or the page cache: quicker than a trip through a thread.
        try:
            token = self.path.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise CredentialError(f"token file {self.path}: {error}") from error
        if not token:
            raise CredentialError(f"token file {self.path} is empty; it must hold a bearer token")
        return token


EXEC_TIMEOUT_SECONDS: Final = 60.0
EXEC_EXPIRY_MARGIN_SECONDS: Final = 10.0
"""A credential that expires within this time is renewed before it is used."""


@dataclass(frozen=True, slots=True)
class ExecPlugin:
    """`users[].user.exec` of a kubeconfig (client.authentication.k8s.io)."""

    api_version: str
    command: str
    args: tuple[str, ...] = ()
    env: tuple[tuple[str, str], ...] = ()
    install_hint: str = ""
    cluster: dict[str, Any] | None = None
    """ExecCredential.spec.cluster, where `provideClusterInfo` asks for it."""


@dataclass(slots=True)
class ExecCredentials:
    """Credentials from an exec plugin, kept until they expire or the server refuses them."""

    plugin: ExecPlugin
    _credential: Credential | None = field(default=None, init=False, repr=False)
    _expires: datetime | None = field(default=None, init=False)
    _running: asyncio.Lock = field(default_factory=asyncio.Lock, init=False, repr=False)

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
    token = status.get("token") or None
    certificate, key = status.get("clientCertificateData"), status.get("clientKeyData")
    if bool(certificate) != bool(key):
        raise CredentialError(f"{where}: clientCertificateData and clientKeyData must be given together")
    if token is None and not certificate:
        raise CredentialError(f"{where}: status holds neither a token nor a client certificate")
    pair = ClientCertificate(certificate.encode(), key.encode()) if certificate and key else None
    return Credential(token, pair), _expiry(where, status.get("expirationTimestamp"))


def _expiry(where: str, text: object) -> datetime | None:
    if text is None:
        return None
    try:
        expires = datetime.fromisoformat(str(text))
    except ValueError as error:
        raise CredentialError(f"{where}: expirationTimestamp {text!r} is not an RFC 3339 time") from error
    return expires if expires.tzinfo else expires.replace(tzinfo=UTC)
