"""Who the agent is to the API server: static credentials, or a token file that is rotated; by a plugin: `exec_plugin`.

A provider is asked before every request and told when the server answered 401; it decides itself what to cache. It
knows nothing about requests, and the kubeconfig's fields are read in `config`, not here.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final, Protocol

import msgspec

if TYPE_CHECKING:
    from pathlib import Path


class CredentialError(Exception):
    """Credentials could not be obtained now; the message names the file or the plugin. Worth another try later."""


class ClientCertificate(msgspec.Struct, frozen=True):
    """An X.509 client certificate chain and its private key, both PEM."""

    certificate: bytes
    key: bytes

    def __repr__(self) -> str:
        return "<ClientCertificate>"  # a private key must not come into a log


class Credential(msgspec.Struct, frozen=True):
    """What one request authenticates with; both absent: anonymous."""

    token: str | None = None
    certificate: ClientCertificate | None = None

    def __repr__(self) -> str:
        return f"<Credential {'with' if self.token else 'without'} token, {self.certificate or 'no certificate'}>"


class Credentials(Protocol):
    """A provider of credentials."""

    async def current(self) -> Credential:
        """The credential for the next request. Raises CredentialError."""
        ...

    def invalidate(self) -> None:
        """The server refused the last one with 401: do not return it from a cache."""
        ...


class StaticCredentials(msgspec.Struct, frozen=True):
    """Token or client certificate written in the kubeconfig; nothing to renew."""

    credential: Credential

    async def current(self) -> Credential:
        return self.credential

    def invalidate(self) -> None:
        """Nothing else could be returned."""


TOKEN_FILE_SECONDS: Final = 60.0
"""How long a token read from a file is used before the file is read again (client-go: one minute)."""


class TokenFileCredentials:
    """A bearer token in a file that somebody else renews: a projected ServiceAccount token, or `tokenFile`."""

    def __init__(self, path: Path, certificate: ClientCertificate | None = None) -> None:
        self.path: Final = path
        self._certificate = certificate
        self._token: str | None = None
        self._read_at = 0.0

    async def current(self) -> Credential:
        now = time.monotonic()
        if self._token is None or now - self._read_at >= TOKEN_FILE_SECONDS:
            self._token = self._read()
            self._read_at = now
        return Credential(self._token, self._certificate)

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
