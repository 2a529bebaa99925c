"""How to reach one API server, as values, and what is asked of those wherever they come from."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import msgspec

if TYPE_CHECKING:
    from pathlib import Path

    from proxymode_agent.kube.credentials import Credentials


class ConfigError(Exception):
    """What is said of the API server cannot be used; the message names file, field, value and what would be right."""


class ClusterConfig(msgspec.Struct, frozen=True):
    """How to reach one API server. `ca_data`: PEM; None: the system's certificate authorities. `ca_file`: where that
    was read, and others may be put."""

    server: str
    credentials: Credentials
    ca_data: bytes | None = None
    ca_file: Path | None = None
    insecure: bool = False
    tls_server_name: str | None = None


def is_url(server: str) -> bool:
    """Whether it names a server: scheme http or https, host, and a port that can be one."""
    try:
        url = urlsplit(server)
        return url.scheme in ("https", "http") and bool(url.hostname) and url.port != 0
    except ValueError:  # a port that is no number
        return False


def authority(data: bytes | None, where: str) -> bytes | None:
    """The PEM certificates, once it is sure that they can be used. Raises ConfigError, which says `where`."""
    if data is not None:
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=data.decode("ascii"))
        except (ssl.SSLError, UnicodeDecodeError) as error:
            raise ConfigError(f"{where} holds no PEM certificate: {error}") from error
    return data


def content(path: Path, what: str) -> bytes:
    """The file's content. Raises ConfigError, which calls it `what`."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{what} {path}: {error.strerror or error}") from error
