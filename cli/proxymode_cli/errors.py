"""What goes wrong for a user, as one line and an exit code; a traceback is for our own mistakes only."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """Documented in --help; scripts may rely on them."""

    DONE = 0
    NOT_AS_WISHED = 1
    USAGE = 2
    CLUSTER = 3
    NOT_FOUND = 4


class UserError(Exception):
    """Shown as `error: …`; then the process ends with `code`."""

    def __init__(self, message: str, code: ExitCode) -> None:
        super().__init__(message)
        self.code = code
