"""Who the agent is to the API server: static credentials, or files that are rotated; by a plugin: `exec_plugin`.

A provider is asked before every request and told when the server answered 401; it decides itself what to cache. It
knows nothing about requests, and the kubeconfig's fields are read in `config`, not here.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final, Protocol

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable
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
    """Token or client certificate as data in the kubeconfig; nothing to renew."""

    credential: Credential

    async def current(self) -> Credential:
        return self.credential

    def invalidate(self) -> None:
        """Nothing else could be returned."""


FILE_SECONDS: Final = 60.0
"""How long what was read from files is used before they are read again (client-go: one minute, for tokens)."""


class FileCredentials:
    """A token or a client certificate, or both, in files that somebody else renews: a projected ServiceAccount token,
    `tokenFile`, `client-certificate` and `client-key`. `read` raises CredentialError."""

    def __init__(self, read: Callable[[], Credential]) -> None:
        self._read = read
        self._credential: Credential | None = None
        self._read_at = 0.0

    async def current(self) -> Credential:
        now = time.monotonic()
        if self._credential is None or now - self._read_at >= FILE_SECONDS:
            # Some kilobytes from a tmpfs or the page cache: quicker than a trip through a thread.
            try:
                self._credential = self._read()
            except CredentialError:
                if self._credential is None:
                    raise  # else the server has not refused what was there before
            self._read_at = now
        return self._credential

    def invalidate(self) -> None:
        self._credential = None


def token_in(file: Path) -> str:
    """The bearer token in a file. Raises CredentialError."""
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CredentialError(f"token file {file}: {error}") from error
    return bearer(text, f"token file {file}")


def bearer(text: str, where: str) -> str:
    """The token in a text, as a header can have it (RFC 6750); white space around it is not its part. Raises
    CredentialError."""
    token = text.strip()
    if not token:
        raise CredentialError(f"{where} is empty; it must hold a bearer token")
    if not (token.isascii() and token.isprintable()):
        raise CredentialError(f"{where} holds no bearer token: it must be one line of ASCII")
    return token
