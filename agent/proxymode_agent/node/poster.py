"""I/O: posts Events about the node. Best effort: one that cannot be posted is logged, and not tried again."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

from proxymode_agent.kube.errors import ApiError
from proxymode_agent.kube.events import Regarding, event_object

if TYPE_CHECKING:
    from datetime import datetime

    from proxymode_agent.kube.client import KubeClient
    from proxymode_agent.kube.objects import Node
    from proxymode_agent.node.events import NodeEvent

logger = logging.getLogger(__name__)


class Poster:
    """For the agent of the node called `name`."""

    def __init__(self, kube: KubeClient, name: str) -> None:
        self._kube = kube
        self._name = name

    async def post(self, event: NodeEvent, node: Node | None, now: datetime) -> bool:
        """Whether it was posted; without a Node there is nothing that it could be about."""
        if node is None:
            return False
        about = Regarding("v1", "Node", "", self._name, node.metadata.uid)
        said = (event.type, event.reason, event.action, event.note)
        body = event_object(about, *said, node=self._name, now=now, token=os.urandom(8).hex())
        try:
            await self._kube.create(about.events_path, body)
        except ApiError as error:
            logger.warning("event cannot be posted", extra={"reason": event.reason, "error": str(error)})
            return False
        return True
