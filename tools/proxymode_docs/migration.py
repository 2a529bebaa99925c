"""docs/reference/migration.md: what `kubectl proxymode migration` looks for, from the table of its rules."""

from __future__ import annotations

import inspect
from typing import Final

from proxymode_cli.migration.table import RULES

_OPENING: Final = """# What changes with the mode

`kubectl proxymode migration [--to nftables|ipvs]` compares the mode that nodes run with the one that they are to go to,
and tells from the cluster's own objects what users of Services will notice: for each finding the Service, the node or
the DaemonSet that it is about, how grave it is, why, what to do, and where to read more. It needs no agent and no
ProxyMode, and only rights to read; what may not be read is named at the end. `kubectl proxymode plan` shows the short
form. This page is written from the code (`make generate`).

`block`: mend it before the rollout begins (the command ends with 1). `warn`: somebody may notice. `info`: good to know.

| Finding | About | What is looked at |
|---|---|---|
"""


def render() -> str:
    """The document's text."""
    rows = (f"| `{rule.id}` | {rule.title} | {_cell(inspect.getdoc(rule.find) or '')} |" for rule in RULES)
    return _OPENING + "\n".join(rows) + "\n"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
