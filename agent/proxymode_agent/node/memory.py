"""What an agent must know after its own restart although the API server may be away: one small file.

The last spec it was given, so that a restart while NodeProxyMode cannot be read goes on with the same mode and options,
and the day of the last deprecation Event, so that a restart does not repeat it.
"""

from __future__ import annotations

import asyncio
import logging
from datetime import date  # noqa: TC003 - pydantic resolves annotations at run time
from pathlib import Path  # noqa: TC003
from typing import Any

from pydantic import ValidationError

from proxymode_agent import whole_file
from proxymode_api.common import Model
from proxymode_api.nodeproxymode import NodeProxyModeSpec  # noqa: TC001

logger = logging.getLogger(__name__)

FILE_NAME = "node.json"


class Memory(Model):
    """The file's content."""

    spec: NodeProxyModeSpec | None = None
    deprecation_posted: date | None = None


def recall(state_dir: Path) -> Memory:
    """What was remembered; nothing where there is no file, or none that can be read (the log says so)."""
    path = state_dir / FILE_NAME
    try:
        return Memory.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return Memory()
    except (OSError, ValidationError) as error:
        logger.warning("state file is not readable and is ignored", extra={"path": str(path), "error": str(error)})
        return Memory()


def remember(state_dir: Path, memory: Memory) -> None:
    """Replace the file. Raises OSError."""
    whole_file.replace(state_dir / FILE_NAME, [memory.model_dump_json(by_alias=True, exclude_none=True).encode()])


class Keeper:
    """The memory of an agent that runs, and the file that is to say the same."""

    def __init__(self, state_dir: Path) -> None:
        self._state_dir = state_dir
        self._saved = Memory()
        self.memory = self._saved

    async def recall(self) -> None:
        """Begin with what an earlier run has left."""
        self.memory = self._saved = await asyncio.to_thread(recall, self._state_dir)

    async def keep(self, **known: Any) -> None:
        """Know these fields of the memory so from now on, and save it."""
        self.memory = self.memory.model_copy(update=known)
        await self.save()

    async def save(self) -> None:
        """Write the file where it is not up to date. Where that fails the log says so; call it again some time."""
        if self.memory == self._saved:
            return
        memory = self.memory
        try:
            await asyncio.to_thread(remember, self._state_dir, memory)
        except OSError as error:
            logger.warning("state file cannot be written", extra={"path": str(self._state_dir), "error": str(error)})
        else:
            self._saved = memory
