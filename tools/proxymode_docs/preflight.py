"""docs/reference/preflight.md: what is checked on a node before it switches: the table of checks, and their pages."""

from __future__ import annotations

from typing import Final

from proxymode_agent.preflight.checks import CHECKS
from proxymode_api.reasons import checks
from proxymode_docs.reasons import section

_OPENING: Final = """# Preflight checks

Every agent runs these for the mode that its node runs and for the one that it would be told to run next; nothing is
changed by looking. `kubectl proxymode preflight` shows the results, what was found, and what to do. A check that blocks
keeps the node as it is; a warning does not. This page is written from the code (`make generate`).

| Check | For | Looks at | Why |
|---|---|---|---|
"""


def render() -> str:
    """The document's text."""
    rows = [
        f"| [`{check.id}`](#{check.id}) | {', '.join(sorted(check.modes))} | {_cell(check.what)} | {_cell(check.why)} |"
        for check in CHECKS
    ]
    sections = [line for page in checks.PAGES for line in section(page)]
    return _OPENING + "\n".join([*rows, "", "## One by one", "", *sections]).rstrip() + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
