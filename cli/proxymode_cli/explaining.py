"""`explain`: pages by code, or a mistake in words. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxymode_api.reasons.explain import PAGES, find, nearest
from proxymode_cli.errors import ExitCode, UserError

if TYPE_CHECKING:
    from proxymode_api.reasons.page import Page


def explained(code: str | None = None) -> tuple[Page, ...]:
    """The page on a code; without one all pages. Raises UserError for a code that nobody writes."""
    if code is None:
        return tuple(PAGES.values())
    page = find(code)
    if page is None:
        meant = nearest(code)
        hint = f"did you mean {' or '.join(meant)}?" if meant else "kubectl proxymode explain lists all"
        raise UserError(f"nothing is known of {code!r}; {hint}", ExitCode.NOT_FOUND)
    return (page,)
