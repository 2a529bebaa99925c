"""What an agent must know after its own restart although the API server may be away: one small file.

The last spec it was given, so that a restart while NodeProxyMode cannot be read goes on with the same mode and options,
and the day of the last deprecation Event, so that a restart does not repeat it.
"""

from __future__ import annotations

import logging
from datetime import date  # noqa: TC003 - pydantic resolves annotations at run time
from pathlib import Path  # noqa: TC003

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
