"""How the API and every command line write a length of time: `1h30m`, `45s`, `0`. Pure, and quick to import.

Apart from the models, since an agent reads its flags before it needs pydantic. Whole seconds and nothing negative: that
is all that the API stores (`rules.DURATION` says the same in CEL), and nothing here is so quick that it needs less.
"""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Final

# Compiled when it is asked for, which takes as long as the import of a module.
_DURATION: Final = r"(?:(\d{1,6})h)?(?:(\d{1,6})m)?(?:(\d{1,6})s)?"


def parse_duration(text: str) -> timedelta:
    """`1h30m`, `90s`, `0` to a timedelta. Raises ValueError that says what would be right."""
    if text == "0":
        return timedelta()
    match = re.fullmatch(_DURATION, text, re.ASCII)
    if not text or match is None:
        raise ValueError(f"{text!r} is not a duration: write hours, minutes and seconds as in 1h30m, 10m, 45s or 0")
    hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return timedelta(hours=hours, minutes=minutes, seconds=seconds)
