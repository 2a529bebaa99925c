"""Small words shared by all renderings: ages, colours, bars, one name for each state. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from rich.text import Text

from proxymode_api.gates import GateResult
from proxymode_api.modes import ObservedMode
from proxymode_api.nodeproxymode import Verdict
from proxymode_api.proxymode_status import FleetStatus, StagePhase
from proxymode_cli.view import NodeState

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime, timedelta

STATE_STYLE: Final[Mapping[NodeState, str]] = {
    NodeState.UPDATED: "green",
    NodeState.SWITCHING: "cyan",
    NodeState.FAILED: "bold red",
    NodeState.BLOCKED: "yellow",
    NodeState.WAITING: "",
    NodeState.SETTLED: "",
    NodeState.SILENT: "red",
    NodeState.SKIPPED: "yellow",
    NodeState.NO_AGENT: "red",
}
STATUS_STYLE: Final[Mapping[FleetStatus, str]] = {
    FleetStatus.COMPLETE: "green",
    FleetStatus.STOPPED: "bold red",
    FleetStatus.ABORTED: "yellow",
    FleetStatus.REFUSED: "bold red",
    FleetStatus.ROLLING_BACK: "bold red",
    FleetStatus.PAUSED: "yellow",
    FleetStatus.WAITING_FOR_WINDOW: "yellow",
    FleetStatus.AWAITING_APPROVAL: "yellow",
    FleetStatus.AWAITING_GATES: "yellow",
}
STAGE_STYLE: Final[Mapping[StagePhase, str]] = {
    StagePhase.PENDING: "dim",
    StagePhase.AWAITING_APPROVAL: "yellow",
    StagePhase.PROGRESSING: "cyan",
    StagePhase.SOAKING: "cyan",
    StagePhase.AWAITING_GATES: "yellow",
    StagePhase.COMPLETE: "green",
}
GATE_STYLE: Final[Mapping[GateResult, str]] = {
    GateResult.PASS: "green",
    GateResult.FAIL: "bold red",
    GateResult.NO_DATA: "yellow",
    GateResult.ERROR: "yellow",
}
VERDICT_STYLE: Final[Mapping[Verdict, str]] = {Verdict.PASS: "green", Verdict.WARN: "yellow", Verdict.BLOCK: "bold red"}
MODE_STYLE: Final[Mapping[ObservedMode, str]] = {
    ObservedMode.NFTABLES: "green",
    ObservedMode.IPVS: "yellow",
    ObservedMode.KUBE_PROXY_NFTABLES: "green",
    ObservedMode.KUBE_PROXY_IPVS: "yellow",
}
NOTHING: Final = "–"
BAR_WIDTH: Final = 24


def age(moment: datetime | None, now: datetime) -> str:
    """`3d`, `41m`, `12s`, as kubectl writes ages."""
    return NOTHING if moment is None else duration(now - moment)


def duration(span: timedelta) -> str:
    """A length of time in the largest unit of which there are two or more; `41m`."""
    seconds = max(0, int(span.total_seconds()))
    if seconds < 120:
        return f"{seconds}s"
    minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86400
    if minutes < 120:
        return f"{minutes}m"
    return f"{hours}h" if hours < 48 else f"{days}d"


def mode(found: ObservedMode | None) -> Text:
    """The mode in the kernel, for people."""
    return Text("unknown", "dim") if found is None else Text(found.value, MODE_STYLE.get(found, ""))


def padded(text: Text, width: int) -> Text:
    """The text with spaces after it up to `width`."""
    text.append(" " * (width - len(text)))
    return text


def state(found: NodeState) -> Text:
    return Text("No agent" if found is NodeState.NO_AGENT else found.value, STATE_STYLE[found])


def ready(found: bool | None) -> Text:
    if found is None:
        return Text(NOTHING, "dim")
    return Text("True") if found else Text("False", "red")


def count_of(known: Iterable[bool | None]) -> str:
    """How many are true; nothing where of none of them is known whether it is."""
    answers = [answer for answer in known if answer is not None]
    return str(sum(answers)) if answers else NOTHING


def verdict(found: Verdict) -> Text:
    return Text(found.value, VERDICT_STYLE[found])


def number(found: int | None) -> str:
    return NOTHING if found is None else f"{found:,}"


def plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count:,} {noun}s"


def names(found: Sequence[str], shown: int = 8) -> str:
    """`a, b, c and 4 more`."""
    if len(found) <= shown:
        return ", ".join(found)
    return f"{', '.join(found[:shown])} and {len(found) - shown} more"


def left_out(blocked: int, skipped: int) -> str:
    """`2 blocked, 1 skipped`; empty when there are none."""
    return ", ".join(f"{count} {word}" for count, word in ((blocked, "blocked"), (skipped, "skipped")) if count)


def bar(done: int, blocked: int, total: int, style: str, width: int = BAR_WIDTH) -> Text:
    """Progress of a stage: what is done, what is blocked, what is left. Never full before all is done."""
    filled = 0 if total == 0 else done * width // total
    stuck = 0 if total == 0 else min(width - filled, -(-blocked * width // total))
    left = "─" * (width - filled - stuck)
    return Text.assemble(("━" * filled, style), ("╍" * stuck, "yellow"), (left, "dim"), no_wrap=True, overflow="crop")
