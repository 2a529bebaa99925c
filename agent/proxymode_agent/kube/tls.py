"""How the API server's certificate is checked, and which one of ours it gets: the TLS context of a cluster.

Files of certificates are renewed while the agent runs. A client certificate comes with each request's credential; the
authorities' file is read again when the server shows a certificate of none of them. It opens no connection.
"""

from __future__ import annotations

import ssl
from contextlib import suppress
from typing import TYPE_CHECKING

from proxymode_agent.kube.cluster import ConfigError, authority, content
from proxymode_agent.kube.credentials import CredentialError

if TYPE_CHECKING:
    from proxymode_agent.kube.cluster import ClusterConfig
    from proxymode_agent.kube.credentials import ClientCertificate


class Tls:
    """The context for one cluster; the same one as long as nothing is renewed."""

    def __init__(self, config: ClusterConfig) -> None:
        self._config = config
        self._ca_data = config.ca_data
        self._made: tuple[ClientCertificate | None, ssl.SSLContext] | None = None

    def context(self, certificate: ClientCertificate | None) -> ssl.SSLContext | None:
        """With this client certificate; None where the server is spoken to without TLS. Raises CredentialError."""
        if not self._config.server.startswith("https://"):
            return None
        if self._made is None or self._made[0] != certificate:
            self._made = (certificate, self._context(certificate))
        return self._made[1]

    def distrusted(self) -> None:
        """The server's certificate is of none of the authorities: the cluster may have new ones (rotation of its root
        certificate). Where their file cannot be used, what was read before stays."""
        if (file := self._config.ca_file) is not None:
            with suppress(ConfigError):
                self._ca_data = authority(content(file, "certificate authority"), str(file))
                self._made = None

    def _context(self, certificate: ClientCertificate | None) -> ssl.SSLContext:
        if self._config.insecure:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        else:  # without data of ours: the system's authorities, which take a while to load
            context = ssl.create_default_context(cadata=self._ca_data.decode("ascii") if self._ca_data else None)
        if certificate is not None:
            import tempfile  # costs as much as half of the rest of this module, and few need it

            # OpenSSL's interface takes the chain from a file only; it is gone as soon as it is read.
            with tempfile.NamedTemporaryFile(suffix=".pem") as file:
                file.write(certificate.certificate.rstrip() + b"\n" + certificate.key)
                file.flush()
                try:
                    context.load_cert_chain(file.name)
                except ssl.SSLError as error:
                    raise CredentialError(f"client certificate and key do not load: {error}") from error
        return context
