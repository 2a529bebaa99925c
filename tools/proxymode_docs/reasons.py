"""docs/reference/reasons.md: what every reason of a condition or an Event means, from the pages of `explain`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from proxymode_api.reasons import checks
from proxymode_api.reasons.explain import CHAPTERS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from proxymode_api.reasons.page import Page

_OPENING: Final = """# Reasons

What conditions and Events say in one word, and what to do about it; `kubectl proxymode explain REASON` prints the same.
This page is written from the code (`make generate`). Preflight checks have a [page of their own](preflight.md).
"""


def render() -> str:
    """The document's text."""
    lines = [_OPENING]
    for chapter, pages in CHAPTERS.items():
        if pages is not checks.PAGES:
            lines += [f"## {chapter}", ""]
            for page in pages:
                lines += section(page)
    return "\n".join(lines).rstrip() + "\n"


def section(page: Page) -> Iterator[str]:
    """One page as a section: where it is seen, what it means, what to do."""
    yield f"### {page.code}"
    yield ""
    yield f"_{'; '.join(page.shown)}._"
    yield ""
    yield page.means
    yield ""
    if page.do:
        yield f"**What to do:** {page.do}"
        yield ""
