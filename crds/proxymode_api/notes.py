"""Names and notes of Events that kube-apiserver takes. Pure, and quick to import.

Solves: kube-apiserver refuses an Event whose note is longer than 1,024 bytes or whose name is no DNS subdomain, and
what is refused nobody reads. Says nothing about what a note is about.
"""

from __future__ import annotations

from typing import Final

NOTE_BYTES: Final = 1024
"""k8s.io/kubernetes pkg/apis/core/validation/events.go, NoteLengthLimit; Go's len() of a string counts bytes."""
NAME_LETTERS: Final = 253
"""RFC 1123's limit of a DNS subdomain."""
_CUT: Final = "…"


def event_name(about: str, token: str) -> str:
    """The name of an Event about the object called so; `token`, letters and digits, tells it from others.

    Not left to generateName, as client-go leaves it neither: that may end with a dash but not with a dot."""
    return f"{about[: NAME_LETTERS - 1 - len(token)].rstrip('.-')}.{token}"


def note(text: str) -> str:
    """The text, cut where it is too long; never in the midst of a character."""
    encoded = text.encode()
    if len(encoded) <= NOTE_BYTES:
        return text
    return encoded[: NOTE_BYTES - len(_CUT.encode())].decode(errors="ignore") + _CUT
