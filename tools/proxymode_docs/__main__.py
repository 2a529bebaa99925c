"""`python -m proxymode_docs` writes the generated files, `--check` fails when one is stale."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from proxymode_docs import alerts, api, dashboard, flags, metrics, migration, plugin, preflight, reasons

if TYPE_CHECKING:
    from collections.abc import Sequence

COMMAND: Final = "python -m proxymode_docs"


def files(root: Path) -> dict[Path, str]:
    """Every generated file of the checkout at `root`, and its text."""
    return {
        root / "docs/metrics.md": metrics.render(alerts.read(root / alerts.FILE)),
        root / "docs/reference/api.md": api.render(),
        root / "docs/reference/flags.md": flags.render(),
        root / "docs/reference/plugin.md": plugin.render(),
        root / "docs/reference/preflight.md": preflight.render(),
        root / "docs/reference/migration.md": migration.render(),
        root / "docs/reference/reasons.md": reasons.render(),
        root / "manifests/monitoring/dashboard.json": dashboard.render(),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog=COMMAND, description="Generate the reference pages of docs/ and Grafana's dashboard."
    )
    parser.add_argument("--check", action="store_true", help="write nothing; fail when a file is stale")
    parser.add_argument("dir", nargs="?", type=Path, default=Path(), metavar="DIR", help="the checkout (default: .)")
    options = parser.parse_args(arguments)
    root: Path = options.dir
    if not (root / alerts.FILE).is_file():
        parser.error(f"DIR is {str(root)!r}, which has no {alerts.FILE}: give the root of a checkout")
    stale = 0
    for path, text in files(root).items():
        if path.is_file() and path.read_text(encoding="utf-8") == text:
            continue
        if options.check:
            stale += 1
            print(f"{path} is stale: run {COMMAND} and commit the result", file=sys.stderr)
        else:
            path.write_text(text, encoding="utf-8")
            print(f"wrote {path}")
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
