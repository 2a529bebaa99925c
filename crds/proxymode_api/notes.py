"""How long the note of an Event may be. Pure, and quick to import.

Solves: kube-apiserver refuses an Event whose note is longer than 1,024 bytes, and what is refused nobody reads. Says
nothing about what a note is about.
"""

from __future__ import annotations

from typing import Final

NOTE_BYTES: Final = 1024
"""k8s.io/kubernetes pkg/apis/core/validation/events.go, NoteLengthLimit; Go's len() of a string counts bytes."""
_CUT: Final = "…"


def note(text: str) -> str:
    """The text, cut where it is too long; never in the midst of a character."""
    encoded = text.encode()
    if len(encoded) <= NOTE_BYTES:
        return text
    return encoded[: NOTE_BYTES - len(_CUT.encode())].decode(errors="ignore") + _CUT
