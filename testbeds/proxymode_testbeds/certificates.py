"""A certificate for a server on this machine's loopback, which is its own authority; made by openssl.

Deliberately no authority with certificates below it: tests need a server that is to be trusted and one that is not.
"""

from __future__ import annotations

import ssl
import subprocess
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from pathlib import Path


class Certificate(NamedTuple):
    """`pem`: for whoever shall trust it. `context`: for the server."""

    pem: str
    context: ssl.SSLContext


def for_loopback(folder: Path) -> Certificate:
    """For 127.0.0.1 and localhost, valid for a day. Raises CalledProcessError where openssl does not do it."""
    folder.mkdir(parents=True, exist_ok=True)
    key, certificate = folder / "server.key", folder / "server.crt"
    command = [
        "openssl",
        "req",
        "-x509",
        "-nodes",
        "-days",
        "1",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
    ]
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"]
    files = ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run([*command, *names, *files], check=True, capture_output=True)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    return Certificate(certificate.read_text(), context)
