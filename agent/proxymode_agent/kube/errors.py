"""What the API server says when it does not do what was asked, in an answer or in the middle of a watch. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

if TYPE_CHECKING:
    from proxymode_agent.http1.connection import Head

_SHOWN: Final = 500
"""So many characters of an answer that is no Status are told."""


class ApiError(Exception):
    """The API server did not do what was asked: its Status, or, with status 0, why it could not be reached.

    `status` is the HTTP code, `reason` the Status' reason such as NotFound, Conflict, Expired, or ConnectionError,
    CredentialError, InvalidResponse; `retry_after` what the server asked for, in seconds.
    """

    def __init__(self, status: int, reason: str, message: str, retry_after: float | None = None) -> None:
        super().__init__(f"{reason}: {message}" if status == 0 else f"{status} {reason}: {message}")
        self.status = status
        self.reason = reason
        self.message = message
        self.retry_after = retry_after


class _Status(msgspec.Struct):
    """metav1.Status, as far as it is read."""

    code: int | None = None
    reason: str | None = None
    message: str | None = None


_STATUS: Final = msgspec.json.Decoder(_Status)


def of_answer(head: Head, body: bytearray, request: str) -> ApiError:
    """An answer that is no success; its body may come from somebody between us and the API server."""
    seconds = head.headers.get("retry-after", "")
    try:
        status = _STATUS.decode(body)
    except msgspec.MsgspecError:
        status = _Status(message=body.decode(errors="replace").strip()[:_SHOWN])
    return ApiError(
        head.status,
        status.reason or head.reason or "Unknown",
        f"{request}: {status.message or 'no message'}",
        float(seconds) if seconds.isdecimal() else None,
    )


def of_watch(raw: msgspec.Raw, path: str) -> ApiError:
    """The object of an ERROR event."""
    try:
        status = _STATUS.decode(raw)
    except msgspec.MsgspecError as error:
        return ApiError(0, "InvalidResponse", f"watch of {path}: {error}")
    return ApiError(status.code or 500, status.reason or "Unknown", f"watch of {path}: {status.message or ''}")
