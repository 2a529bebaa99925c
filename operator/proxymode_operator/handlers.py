"""kopf's side: what it watches and how it is kept from doing more.

kopf lists and watches the ProxyModes and hands every event to the cache; the objects of which there are thousands are
`listwatch`'s. A plain event handler only: create, update or daemon handlers would make kopf annotate each object, or
put a finalizer on it.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import kopf

from proxymode_api import GROUP, VERSION
from proxymode_operator.kubeapi import Kind
from proxymode_operator.kubeconfig import configuration

if TYPE_CHECKING:
    from pathlib import Path

    from proxymode_operator.cache import Cache


def registry(cache: Cache, kubeconfig: Path | None) -> kopf.OperatorRegistry:
    """The handler that keeps the cache, and the login."""
    found = kopf.OperatorRegistry()

    @kopf.on.event(GROUP, VERSION, "proxymodes", registry=found, id=Kind.PROXY_MODE.value)
    async def handle(event: kopf.RawEvent, **_: Any) -> None:
        raw: Any = event["object"]
        (cache.delete if event["type"] == "DELETED" else cache.put)(Kind.PROXY_MODE, raw)

    @kopf.on.login(registry=found)
    async def login(**_: Any) -> kopf.ConnectionInfo:
        """The same credentials as our own requests; asked again when a token has run out."""
        config = await configuration(kubeconfig)
        header = await config.get_api_key_with_prefix("BearerToken")
        return kopf.ConnectionInfo(
            server=config.host,
            ca_path=config.ssl_ca_cert,
            insecure=not config.verify_ssl,
            username=config.username or None,
            password=config.password or None,
            token=header.split(" ", 1)[-1] if header else None,
            certificate_path=config.cert_file,
            private_key_path=config.key_file,
        )

    return found


def settings() -> kopf.OperatorSettings:
    """Quiet, and without any write of its own."""
    found = kopf.OperatorSettings()
    found.posting.enabled = False
    found.posting.level = logging.WARNING
    found.scanning.disabled = True  # the CRDs are there when kopf starts; without it kopf needs no right to watch CRDs
    found.queueing.idle_timeout = 1
    return found
