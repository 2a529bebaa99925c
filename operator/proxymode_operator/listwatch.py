"""Nodes and NodeProxyModes, listed and watched straight into the cache.

Why not kopf, which watches the ProxyModes: it runs every event through a task, a copy of the object and a comparison
with what handlers saw last, which takes half a millisecond, four times as long as all that the cache does with it. A
fleet of 5,000 sends a hundred a second when nothing happens: heartbeats of agents, status of kubelets. These events
have no handlers that could fail, no order among objects and no retry: the newest version is all that counts.

Deliberately tells nobody when the cache is complete; that is `resync`.
"""

from __future__ import annotations

import asyncio
import logging
import random
from typing import TYPE_CHECKING, Final

from proxymode_operator.kubeapi import ApiError, Kind, identity
from proxymode_operator.metrics import WATCH_RESTARTS
from proxymode_operator.shapes import IdentityShape, read

if TYPE_CHECKING:
    from proxymode_operator.cache import Cache
    from proxymode_operator.kubeapi import KubeApi, ListedObject
    from proxymode_operator.pace import Pace

logger = logging.getLogger(__name__)

WATCHED: Final = (Kind.NODE, Kind.NODE_PROXY_MODE)

_FIRST_BACKOFF_SECONDS: Final = 0.2
_LAST_BACKOFF_SECONDS: Final = 30.0
_GONE: Final = 410


async def follow(api: KubeApi, cache: Cache, kind: Kind, pace: Pace) -> None:
    """Keeps the cache's picture of one kind, at this pace; for ever. Raises only on cancellation.

    A watch that ends goes on from the version that it had reached. Where the API server knows that version no more
    (410), everything is listed anew, and what has vanished meanwhile is dropped.
    """
    version: str | None = None
    backoff = _FIRST_BACKOFF_SECONDS
    while True:
        try:
            if version is None:
                version = await _list(api, cache, kind)
            async for event, raw in api.watch(kind, version, pace.pause):
                backoff = _FIRST_BACKOFF_SECONDS
                match event:
                    case "DELETED":
                        version = cache.delete(kind, raw)
                    case "BOOKMARK":
                        version = read(IdentityShape, raw).metadata.resource_version
                    case _:
                        version = cache.put(kind, raw)
        except ApiError as error:
            WATCH_RESTARTS.labels(kind.value, "gone" if error.code == _GONE else "error").inc()
            if error.code == _GONE:
                version = None
            logger.warning("watch broken", extra={"kind": kind.value, "error": str(error), "again_in": backoff})
            await asyncio.sleep(backoff * random.uniform(0.75, 1.25))
            backoff = min(backoff * 2, _LAST_BACKOFF_SECONDS)
        else:
            WATCH_RESTARTS.labels(kind.value, "ended").inc()
            await asyncio.sleep(_FIRST_BACKOFF_SECONDS * random.random())


async def _list(api: KubeApi, cache: Cache, kind: Kind) -> str:
    """Lists everything; the version from which to watch."""
    known_before = cache.known(kind)
    listed: list[ListedObject] = []
    version = ""
    async for page in api.list_pages(kind):
        for raw in page.items:
            cache.put(kind, raw)
        listed += map(identity, page.items)
        version = page.resource_version
    cache.drop_ghosts(kind, listed, known_before)
    return version
