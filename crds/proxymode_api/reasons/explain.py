"""From a code to its page: every reason of conditions and Events, every preflight check. Pure."""

from __future__ import annotations

import difflib
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from proxymode_api.reasons import checks, gates, node, rollout, services

if TYPE_CHECKING:
    from collections.abc import Mapping

    from proxymode_api.reasons.page import Page

CHAPTERS: Final[Mapping[str, tuple[Page, ...]]] = MappingProxyType(
    {
        "Nodes": node.PAGES,
        "Rollouts": (*rollout.PAGES, *gates.PAGES),
        "Services": services.PAGES,
        "Preflight checks": checks.PAGES,
    }
)
"""Pages in the order of the reference."""

PAGES: Final[Mapping[str, Page]] = MappingProxyType(
    {str(page.code): page for pages in CHAPTERS.values() for page in pages}
)
"""Every page by its code."""

_BY_FOLDED: Final = {code.casefold(): page for code, page in PAGES.items()}


def find(code: str) -> Page | None:
    """The page on a code, whatever its letters' case; None: there is none."""
    return _BY_FOLDED.get(code.strip().casefold())


def nearest(code: str, most: int = 3) -> list[str]:
    """Codes that somebody may have meant, best first."""
    folded = difflib.get_close_matches(code.strip().casefold(), _BY_FOLDED, n=most)
    return [str(_BY_FOLDED[found].code) for found in folded]
