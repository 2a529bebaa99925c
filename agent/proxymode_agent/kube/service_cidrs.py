"""The networks that the cluster takes its Services' addresses from, where the API server says so (KEP-1880).

ServiceCIDR objects are served from Kubernetes 1.33 on. A server without them is asked again now and then, for it may be
upgraded; until then nothing is told. Changes are told once they have settled: whoever listens has to look at the whole
dataplane again.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
from typing import TYPE_CHECKING, Final

from proxymode_agent.backoff import Backoff
from proxymode_agent.kube.errors import ApiError
from proxymode_agent.kube.listwatch import Changed, Deleted, ListWatch, Synced
from proxymode_agent.kube.objects import decode_service_cidr

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from proxymode_agent.kube.client import KubeClient
    from proxymode_agent.kube.objects import ObjectKey
    from proxymode_agent.kube.restarts import RestartReason
    from proxymode_agent.services.model import Network

logger = logging.getLogger(__name__)

PATH: Final = "/apis/networking.k8s.io/v1/servicecidrs"
ASK_AGAIN_SECONDS: Final = 600.0
"""Between two questions whether ServiceCIDRs are served."""
SETTLE_SECONDS: Final = 1.0


class ServiceCidrs:
    """`tell` hears the networks when they are first known and when they change; `run` for ever in a task."""

    def __init__(
        self,
        client: KubeClient,
        tell: Callable[[tuple[Network, ...]], None],
        *,
        restarted: Callable[[RestartReason], None] = lambda reason: None,
        settle: float = SETTLE_SECONDS,
        ask_again: float = ASK_AGAIN_SECONDS,
    ) -> None:
        self._client = client
        self._tell = tell
        self._watch = ListWatch(client, PATH, decode_service_cidr, restarted=restarted)
        self._settle = settle
        self._ask_again = ask_again
        self._known: dict[ObjectKey, list[str]] = {}
        self._news = asyncio.Event()

    async def run(self) -> None:
        """Ends only by cancellation."""
        await self._served()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._follow())
            await self._news.wait()
            while True:
                self._news.clear()
                self._tell(merged(text for texts in self._known.values() for text in texts))
                await self._news.wait()
                await asyncio.sleep(self._settle)

    async def _served(self) -> None:
        """Return as soon as the server has ServiceCIDRs and lets us read them."""
        backoff = Backoff()
        forbidden = False
        while True:
            try:
                await self._client.get(PATH, params={"limit": "1"})
                return
            except ApiError as error:
                delay = backoff.next()
                if error.status == 404:
                    logger.debug("ServiceCIDRs are not served", extra={"ask_again_seconds": self._ask_again})
                    delay = self._ask_again
                elif error.status == 403:
                    if not forbidden:
                        logger.warning("ServiceCIDRs cannot be read", extra={"error": str(error)})
                    forbidden, delay = True, self._ask_again
            await asyncio.sleep(delay)

    async def _follow(self) -> None:
        complete = False
        async for event in self._watch.events():
            match event:
                case Changed(key, found):
                    self._known[key] = found.spec.cidrs or []
                case Deleted(key):
                    self._known.pop(key, None)
                case Synced():
                    complete = True
            if complete:
                self._news.set()


def merged(texts: Iterable[str]) -> tuple[Network, ...]:
    """The networks without overlap, in order; what is no network is left out, and logged."""
    four: list[ipaddress.IPv4Network] = []
    six: list[ipaddress.IPv6Network] = []
    for text in texts:
        try:
            network = ipaddress.ip_network(text, strict=False)
        except ValueError:
            logger.warning("a ServiceCIDR has what is not a network", extra={"cidr": text})
            continue
        if isinstance(network, ipaddress.IPv4Network):
            four.append(network)
        else:
            six.append(network)
    return (*ipaddress.collapse_addresses(four), *ipaddress.collapse_addresses(six))
