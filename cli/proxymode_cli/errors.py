"""What goes wrong for a user, as one line and an exit code; a traceback is for our own mistakes only."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """Exit codes and what they mean: the one table, which --help and the reference print; scripts may rely on it."""

    means: str

    def __new__(cls, value: int, means: str) -> ExitCode:
        member = int.__new__(cls, value)
        member._value_ = value
        member.means = means
        return member

    DONE = 0, "done"
    NOT_AS_WISHED = 1, "not as wished (a rollout has stopped, a check or a finding blocks)"
    USAGE = 2, "wrong usage"
    CLUSTER = 3, "the cluster cannot be reached or refuses"
    NOT_FOUND = 4, "not found"


class UserError(Exception):
    """Shown as `error: …`; then the process ends with `code`."""

    def __init__(self, message: str, code: ExitCode) -> None:
        super().__init__(message)
        self.code = code


class NotInstalledError(UserError):
    """The cluster does not know our kinds."""

    def __init__(self) -> None:
        super().__init__(
            "this cluster does not know ProxyModes: kubectl apply -k manifests/ installs them", ExitCode.CLUSTER
        )


def one_line(error: BaseException) -> str:
    """The error's text without the object addresses and line breaks that libraries put into it."""
    text = str(error).rpartition("object at 0x")[2].partition(">: ")[2] or str(error)
    return " ".join(text.split())
