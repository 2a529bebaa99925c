"""docs/behaviour.md: the table for readers. `python tests/packets/packet_behaviour.py` writes it; a test compares."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

import yaml
from packet_cases import DIFFERENCES, FOLDER
from packet_table import FAMILIES, Options, flow_lines, read

if TYPE_CHECKING:
    from collections.abc import Iterator

    from packet_table import Case

OTHERS: Final = Path(__file__).parent / "differences-ipvs-others.yaml"
DOCUMENT: Final = Path(__file__).parents[2] / "docs" / "behaviour.md"

_OPENING: Final = """# Where packets go

What proxymode promises of Services, case by case; what differs in ipvs mode is at the end. This page is written from
`tests/packets/cases/` (`make generate`), and each line of it is tried with real packets, in IPv4 and in IPv6: in
nftables mode on the host's kernel, in ipvs mode on Debian's 6.1. A file there has the Services of each case as YAML.
What kube-proxy's own suites and the end-to-end tests of Services pin down, as far as a packet shows it, is among the
cases; `Published` says where a behaviour is written down.

Senders: `pod`, `local1` … `local4` are pods of the node, `remote1` … `remote3` of another node, whose packets to
Services come to this one; `node` is a process of the node, `client` and `blocked` are machines outside of the cluster.
Addresses: `web` is the cluster IP of the Service web, `web.external` and `web.lb` its external and load-balancer IPs,
`node` the node's primary address, `node.second` another one, `node.pods` the one that its pods see. An endpoint answers
on port 8080 where nothing else is said. `masq`: it sees an address of the node instead of the sender's. `one of`: each
time the same one. `rejected`: the sender is told at once. `dropped`: nobody answers. `balancer` is where packets end
that the node leaves alone.
"""


def render() -> str:
    """The document's text. Raises packet_table.TableError."""
    sections = [_OPENING.rstrip("\n")]
    for file, cases in read(sorted(FOLDER.glob("*.yaml"))).items():
        sections.append(f"## {file.stem.replace('-', ' ').capitalize()}\n\n{_comment(file)}")
        sections += ["\n".join(_case(case)) for case in cases]
    sections += _in_ipvs_mode()
    return "\n\n".join(sections) + "\n"


def _in_ipvs_mode() -> Iterator[str]:
    """What differs, reason by reason."""
    by_reason: dict[str, list[str]] = {}
    for difference in yaml.safe_load(DIFFERENCES["ipvs"].read_text()):
        step = f", then {difference['step']}" if "step" in difference else ""
        lines = difference["flow"].rstrip().splitlines()
        by_reason.setdefault(difference["because"], []).append("\n".join((f"# {difference['case']}{step}", *lines)))
    yield "## In ipvs mode\n\nThe same, but for what follows."
    yield "\n".join(_others())
    for reason, cases in by_reason.items():
        yield f"### {reason}"
        yield "```\n" + "\n\n".join(cases) + "\n```"


def _others() -> Iterator[str]:
    """What no line of the table can say, as a table of its own."""
    yield "| | nftables mode | ipvs mode | because |"
    yield "|---|---|---|---|"
    for entry in yaml.safe_load(OTHERS.read_text()):
        yield f"| {entry['what']} | {entry['nftables']} | {entry['ipvs']} | {entry['because']} |"


def _comment(file: Path) -> str:
    lines = file.read_text().splitlines()
    opening = lines[: next(number for number, line in enumerate(lines) if not line.startswith("#"))]
    return "\n".join(line.removeprefix("# ") for line in opening)


def _case(case: Case) -> Iterator[str]:
    yield f"### {case.title}"
    yield ""
    usual = Options()
    told = [name for name in Options.__dataclass_fields__ if getattr(case.options, name) != getattr(usual, name)]
    notes = [f"{_camel(name)} {_value(getattr(case.options, name))}" for name in told]
    if case.families != FAMILIES:
        notes.append(" and ".join(case.families) + " only")
    if notes:
        yield f"With {', '.join(notes)}."
    yield f"Published: {'; '.join(case.published)}."
    yield ""
    yield "```"
    for step in case.steps:
        if step.title:
            yield f"then {step.title}:"
        yield from flow_lines(step.flows)
    yield "```"


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(word.capitalize() for word in rest)


def _value(value: object) -> str:
    if isinstance(value, tuple):
        return " ".join(value)
    return (
        {"": "none", True: "yes", False: "no"}.get(value, str(value)) if isinstance(value, str | bool) else str(value)
    )


if __name__ == "__main__":
    DOCUMENT.parent.mkdir(exist_ok=True)
    DOCUMENT.write_text(render())
