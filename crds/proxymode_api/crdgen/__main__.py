"""`python -m proxymode_api.crdgen [--check] [DIR]`: write the generated files of the checkout DIR, or compare them.

Exit status: 0 all is (now) up to date; 1 with --check: a file is stale or missing; 2 wrong usage.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import yaml
from proxymode_api.crdgen.crds import nodeproxymodes, proxymodes
from proxymode_api.crdgen.policies import deprecated_mode

if TYPE_CHECKING:
    from collections.abc import Sequence

COMMAND: Final = "python -m proxymode_api.crdgen"
HEADER: Final = f"# Generated from proxymode_api by `{COMMAND}`; do not edit.\n"


class _Dumper(yaml.SafeDumper):
    """Block style with list items indented, and never an anchor: a manifest is read by people."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)

    def ignore_aliases(self, data: Any) -> bool:
        return True


def render(documents: Sequence[dict[str, Any]]) -> str:
    """Kubernetes objects as one YAML file, the same text for the same objects."""
    return HEADER + yaml.dump_all(documents, Dumper=_Dumper, sort_keys=False, width=110, explicit_start=True)


def files() -> dict[Path, str]:
    """Every generated file: its path in the checkout, and its text."""
    return {
        Path("crds/proxymodes.yaml"): render([proxymodes()]),
        Path("crds/nodeproxymodes.yaml"): render([nodeproxymodes()]),
        Path("manifests/base/policies/deprecated-mode.yaml"): render(deprecated_mode()),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog=COMMAND, description="Generate CRDs and the deprecation policy.")
    parser.add_argument("--check", action="store_true", help="write nothing; fail when a file is stale")
    parser.add_argument("dir", nargs="?", type=Path, default=Path(), metavar="DIR", help="the checkout (default: .)")
    options = parser.parse_args(arguments)
    root: Path = options.dir
    if not (root / "crds").is_dir():
        parser.error(f"DIR is {str(root)!r}, which has no folder crds: give the root of a checkout")
    stale = 0
    for path, text in files().items():
        target = root / path
        if target.is_file() and target.read_text(encoding="utf-8") == text:
            continue
        if options.check:
            stale += 1
            sys.stderr.write(f"{target} is stale: run {COMMAND} and commit the result\n")
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text, encoding="utf-8")
            sys.stdout.write(f"wrote {target}\n")
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
