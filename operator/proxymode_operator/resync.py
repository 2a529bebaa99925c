"""Whether the cache holds the whole cluster.

Solves three things that watches alone leave open. At the start, nobody is told when kopf's watches have brought all
that exists: a decision on half a fleet would be a wrong one. Later, a watch that had to begin anew brings what is there
but not what was deleted meanwhile. And an etcd that was restored from a backup has older versions than the cache, which
never goes back, and a watch from a version that is not there yet says nothing. All are settled by a list of metadata
(names, uids, versions) of our own: the cache is complete when it holds everything listed in that version or a newer
one; what it held before the list and the list has not is dropped; where it held a newer version before the list, the
process has to begin anew.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from proxymode_operator.kubeapi import ApiError, Kind
from proxymode_operator.metrics import RESYNCS

if TYPE_CHECKING:
    from proxymode_operator.cache import Cache
    from proxymode_operator.kubeapi import KubeApi

logger = logging.getLogger(__name__)

EVERY_SECONDS: Final = 300.0
"""How often a running operator compares."""

_PATIENCE_SECONDS: Final = 10.0
_POLL_SECONDS: Final = 0.05
_BACKOFF_CAP_SECONDS: Final = 30.0


class SetBackError(Exception):
    """The API server has older versions than it had: nothing that is known holds any more."""


async def until_complete(api: KubeApi, cache: Cache) -> None:
    """Returns once the cache holds everything that a list, begun after this call, has shown.

    Never gives up: without a complete picture there is nothing to do. Raises SetBackError.
    """
    backoff = 0.2
    while True:
        try:
            if await _compare(api, cache):
                RESYNCS.labels("complete").inc()
                return
            RESYNCS.labels("behind").inc()
            logger.warning("the watches have not brought all that was listed, listing again")
        except ApiError as error:
            RESYNCS.labels("error").inc()
            logger.warning("cannot list, trying again", extra={"error": str(error), "seconds": backoff})
        await asyncio.sleep(backoff)
        backoff = min(backoff * 2, _BACKOFF_CAP_SECONDS)


async def _compare(api: KubeApi, cache: Cache) -> bool:
    listed = {}
    for kind in Kind:
        known_before, versions_before = cache.known(kind), cache.versions(kind)
        listed[kind] = [item async for item in api.list_metadata(kind)]
        for item in listed[kind]:
            if item.resource_version < (had := versions_before.get(item.uid, 0)):
                older = f"{kind} {item.name} has version {item.resource_version} and had {had}"
                raise SetBackError(f"the API server was set back, as by a restore of etcd: {older}; beginning anew")
        cache.drop_ghosts(kind, listed[kind], known_before)
    loop = asyncio.get_running_loop()
    patience_ends = loop.time() + _PATIENCE_SECONDS
    while any(cache.behind(kind, items) for kind, items in listed.items()):
        if loop.time() > patience_ends:
            return False
        await asyncio.sleep(_POLL_SECONDS)
    return True


async def until_served(api: KubeApi) -> None:
    """Returns once the API server serves all three kinds: kopf watches only what it finds when it starts."""
    backoff, said = 0.5, False
    while True:
        try:
            for kind in Kind:
                async for _ in api.list_metadata(kind):
                    break
        except ApiError as error:
            if not said:
                logger.warning("waiting for the API server and the CRDs", extra={"error": str(error)})
                said = True
            await asyncio.sleep(backoff)
            backoff = min(backoff * 2, _BACKOFF_CAP_SECONDS)
        else:
            return
