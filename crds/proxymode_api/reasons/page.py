"""What a page on a reason or a preflight check is made of. Pure data; finding a page is `explain`'s."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Mood(StrEnum):
    """How a person may take it: all is well, something goes on, somebody should look; a check's result says which."""

    WELL = "all is well"
    UNDER_WAY = "under way"
    LOOK = "needs a look"
    CHECK = "a check"


@dataclass(frozen=True, slots=True)
class Page:
    """One code on one page: where it is shown, what it means in a paragraph, what to do; "" where nothing is."""

    code: str
    mood: Mood
    shown: tuple[str, ...]
    means: str
    do: str = ""


def on_node(condition: str, status: str) -> str:
    """Where a condition of a NodeProxyMode is seen."""
    return f"NodeProxyMode, condition {condition} is {status}"


def on_rollout(condition: str, status: str) -> str:
    """Where a condition of a ProxyMode is seen."""
    return f"ProxyMode, condition {condition} is {status}"


NODE_EVENT: Final = "Event on the Node"
ROLLOUT_EVENT: Final = "Event on the ProxyMode"
SERVICE_EVENT: Final = "Event on the Service"
PREFLIGHT: Final = "NodeProxyMode, status.preflight"
