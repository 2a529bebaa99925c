"""A switch's memory across a crash: one small file that exists from its first step to its last.

The kernel's state is the truth about what is done; the file only adds what cannot be read from it: that a switch was
under way, where to and since when. It is written whole, synchronised to disk and renamed into place. A file that
cannot be read or understood counts as none, with a warning: the kernel still tells.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

import msgspec

from proxymode_agent import whole_file
from proxymode_agent.switch.probes.sample import Target
from proxymode_agent.switch.record import StepRecord
from proxymode_api.modes import Mode, ObservedMode

if TYPE_CHECKING:
    from pathlib import Path

logger = logging.getLogger(__name__)
_FORMAT: Final = 2


class Entry(msgspec.Struct, frozen=True):
    """A switch that is under way.

    `final`: the old mode is no longer whole. `attempts`: how often it was begun. `found`: connections that the old mode
    held at the beginning; `drain_until`: until when they may end by themselves. `answered`: frontends that did before.
    """

    from_mode: ObservedMode
    to_mode: Mode
    started_at: datetime
    final: bool
    steps: tuple[StepRecord, ...]
    attempts: int = 1
    found: int | None = None
    drain_until: datetime | None = None
    answered: frozenset[Target] | None = None


class Journal:
    """The file `switch.json` in the agent's state directory. Raises OSError where that cannot be written."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file = folder / "switch.json"

    def read(self) -> Entry | None:
        """The switch that is under way; None: none is."""
        try:
            return _parse(json.loads(self._file.read_text()))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            logger.warning("switch journal ignored", extra={"file": str(self._file), "reason": repr(error)})
            return None

    def write(self, entry: Entry) -> None:
        """On disk when this returns."""
        whole_file.replace(self._file, [json.dumps(_wire(entry)).encode()])
        self._sync_folder()

    def clear(self) -> None:
        """The switch is over."""
        with contextlib.suppress(FileNotFoundError):
            self._file.unlink()
            self._sync_folder()

    def _sync_folder(self) -> None:
        descriptor = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _wire(entry: Entry) -> dict[str, Any]:
    return {
        "format": _FORMAT,
        "from": entry.from_mode,
        "to": entry.to_mode,
        "startedAt": entry.started_at.isoformat(),
        "final": entry.final,
        "steps": [
            {
                "name": step.name,
                "startedAt": step.started_at.isoformat(),
                "milliseconds": step.milliseconds,
                "tries": step.tries,
            }
            for step in entry.steps
        ],
        "attempts": entry.attempts,
        "found": entry.found,
        "drainUntil": entry.drain_until and entry.drain_until.isoformat(),
        "answered": None
        if entry.answered is None
        else sorted((target.address.hex(), target.port) for target in entry.answered),
    }


def _parse(wire: Any) -> Entry:
    if wire["format"] != _FORMAT:
        raise ValueError(f"format {wire['format']!r} is not {_FORMAT}")
    answered = wire["answered"]
    return Entry(
        from_mode=ObservedMode(wire["from"]),
        to_mode=Mode(wire["to"]),
        started_at=datetime.fromisoformat(wire["startedAt"]),
        final=bool(wire["final"]),
        steps=tuple(
            StepRecord(
                step["name"], datetime.fromisoformat(step["startedAt"]), int(step["milliseconds"]), int(step["tries"])
            )
            for step in wire["steps"]
        ),
        attempts=int(wire["attempts"]),
        found=wire["found"],
        drain_until=wire["drainUntil"] and datetime.fromisoformat(wire["drainUntil"]),
        answered=None if answered is None else frozenset(Target(bytes.fromhex(at), port) for at, port in answered),
    )
