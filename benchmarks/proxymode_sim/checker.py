"""The operator's promises, held against every version of every object. Pure: objects in, violations out.

Versions are compared across kinds, so objects have to come in the order of their resourceVersions, which is that of the
writes: API servers with one etcd number all objects by its revisions. `merge` makes that order out of several watches.

What is held against the operator:

1. Never more than maxUnavailable nodes are in flight: told to run something that their agents have not yet reported
   done. When a node is told, Nodes that have not been Ready or were cordoned for `GRACE_SECONDS` count too: the
   operator hears of them over a watch, as everybody does.
2. Nobody is told out of turn: every stage before the node's own is complete and has soaked, in the stored status, and
   when a stage becomes complete each of its nodes and of those before it is done, has failed, is overdue by
   progressDeadline, blocked or silent.
3. Once the status says that a pause was heard, nobody is told until it is lifted.
4. A node is told what the ProxyMode's spec says or has said, and a node whose preflight blocks that is not told at all.
5. A rollout writes a node at most four times, besides placing it in another stage.
6. It writes nothing on a NodeProxyMode but what is its own: whatever changes spec leaves status alone.
"""

from __future__ import annotations

import heapq
import json
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from proxymode_api.durations import parse_duration

if TYPE_CHECKING:
    from collections.abc import Iterator

Json = dict[str, Any]

GRACE_SECONDS: Final = 10.0
WRITES_ALLOWED: Final = 4
SILENT_AFTER: Final = timedelta(minutes=3)
_TURN: Final = "proxymode.io/turn"


class Seen(NamedTuple):
    """One version of one object. `at`: seconds by a monotonic clock, when it was received or acknowledged."""

    version: int
    kind: str
    at: float
    raw: Json


@dataclass
class Merge:
    """Puts what several watches bring into order; holds everything back for so many seconds: as long as one of them may
    lag behind another on a busy machine."""

    hold_seconds: float = 15.0
    _waiting: list[tuple[int, int, Seen]] = field(default_factory=list)
    _count: int = 0

    def add(self, seen: Seen) -> None:
        self._count += 1
        heapq.heappush(self._waiting, (seen.version, self._count, seen))

    def ready(self, now: float) -> Iterator[Seen]:
        """Those that nothing older can precede any more."""
        while self._waiting and self._waiting[0][2].at + self.hold_seconds <= now:
            yield heapq.heappop(self._waiting)[2]

    def rest(self) -> Iterator[Seen]:
        """All, when no watch brings anything any more."""
        while self._waiting:
            yield heapq.heappop(self._waiting)[2]


@dataclass(slots=True)
class _Node:
    """`told`: the generation that its last telling made, 0: never told; `failed_turn`: of the last that failed."""

    mode: str | None = None
    stage: str = ""
    revision: int = 0
    told: int = 0
    done: bool = False
    failed_turn: int = 0
    blockers: bool = False
    preflight: str = ""
    heartbeat: datetime | None = None
    tried_at: datetime | None = None
    written: tuple[Any, ...] = ()
    status: Any = None
    writes: dict[int, int] = field(default_factory=dict)

    @property
    def in_flight(self) -> bool:
        return self.told > 0 and not self.done

    def settled(self, mode: str, deadline: timedelta, at: datetime) -> bool:
        """Whether a stage need not wait for it, when this was its progressDeadline: nor for one that has failed once
        and tries again."""
        failed = 0 < self.told <= self.failed_turn
        overdue = self.tried_at is not None and self.tried_at + deadline <= at
        silent = self.heartbeat is None or self.heartbeat + max(deadline, SILENT_AFTER) <= at
        return (self.mode == mode and self.done) or failed or overdue or self.blockers or silent


class Checker:
    """Feed it in order; `violations` says what was broken, at which version."""

    def __init__(self, nodes: int, max_unavailable_percent: int) -> None:
        self.budget = max(1, nodes * max_unavailable_percent // 100)
        self.violations: list[str] = []
        self.seen = 0
        self.told = 0
        self.most_in_flight = 0
        self._nodes: dict[str, _Node] = {}
        self._in_flight: set[str] = set()
        self._ill: dict[str, float] = {}
        self._spec: Json = {}
        self._status: Json = {}
        self._modes: set[str] = set()
        self._pause_heard = False
        self._last = 0

    def feed(self, seen: Seen) -> None:
        """One version of a Node, a NodeProxyMode or the ProxyMode."""
        if seen.version < self._last:
            self._violated(seen, "came too late to be held in order")
        self._last = max(self._last, seen.version)
        self.seen += 1
        match seen.kind:
            case "Node":
                self._node(seen)
            case "NodeProxyMode":
                self._node_proxy_mode(seen)
            case "ProxyMode":
                self._proxy_mode(seen)

    @property
    def most_writes(self) -> int:
        """To one node in one rollout."""
        return max((count for node in self._nodes.values() for count in node.writes.values()), default=0)

    def _violated(self, seen: Seen, what: str) -> None:
        self.violations.append(f"{seen.kind} {seen.raw['metadata']['name']} at {seen.version}: {what}")

    def _node(self, seen: Seen) -> None:
        name = seen.raw["metadata"]["name"]
        ready = any(c["type"] == "Ready" and c["status"] == "True" for c in seen.raw["status"]["conditions"])
        if ready and not seen.raw.get("spec", {}).get("unschedulable"):
            self._ill.pop(name, None)
        else:
            self._ill.setdefault(name, seen.at)

    def _proxy_mode(self, seen: Seen) -> None:
        before = {stage["name"]: stage for stage in self._status.get("stages", ())}
        self._spec, self._status = seen.raw["spec"], seen.raw.get("status", {})
        self._modes.add(self._spec["mode"])
        heard = self._status.get("observedGeneration") == seen.raw["metadata"]["generation"]
        paused = bool(self._spec["rollout"].get("paused"))
        self._pause_heard = paused and (heard or self._pause_heard)
        names = []
        for stage in self._status.get("stages", ()):
            names.append(stage["name"])
            if stage.get("completedAt") and not before.get(stage["name"], {}).get("completedAt"):
                self._completed(seen, stage["name"], set(names), datetime.fromisoformat(stage["completedAt"]))

    def _completed(self, seen: Seen, stage: str, reached: set[str], at: datetime) -> None:
        mode, deadline = self._spec["mode"], parse_duration(self._spec["rollout"].get("progressDeadline", "10m"))
        nodes = ((name, node) for name, node in self._nodes.items() if node.stage in reached)
        early = [name for name, node in nodes if not node.settled(mode, deadline, at)]
        if early and self._status.get("mode") == mode:
            self._violated(seen, f"stage {stage} complete without {early[:5]} ({len(early)} in all)")

    def _node_proxy_mode(self, seen: Seen) -> None:
        raw, name = seen.raw, seen.raw["metadata"]["name"]
        node = self._nodes.setdefault(name, _Node())
        spec, turn = raw["spec"], raw["metadata"].get("annotations", {}).get(_TURN)
        written = (json.dumps(spec | {"stage": ""}, sort_keys=True), turn)
        if written != node.written:
            revision = self._status.get("revision", 0)
            node.writes[revision] = node.writes.get(revision, 0) + 1
            if node.writes[revision] > WRITES_ALLOWED:
                self._violated(seen, f"written {node.writes[revision]} times by revision {revision}")
            if raw.get("status") != node.status:
                self._violated(seen, "spec and status changed in one write")
        note: Json = json.loads(turn) if turn else {"generation": 0}
        told = note["generation"]
        tried = note.get("retriedAt", note.get("at"))
        node.tried_at = datetime.fromisoformat(tried) if tried else None
        newly = told != node.told
        node.written, node.status = written, raw.get("status")
        node.mode, node.stage, node.revision, node.told = spec.get("mode"), spec["stage"], spec["revision"], told
        self._report(node)
        was_in_flight = name in self._in_flight
        (self._in_flight.add if node.in_flight else self._in_flight.discard)(name)
        if newly:
            self._telling(seen, node, was_in_flight=was_in_flight)
        self.most_in_flight = max(self.most_in_flight, len(self._in_flight))

    def _report(self, node: _Node) -> None:
        status = node.status or {}
        conditions = {c["type"]: c["status"] for c in status.get("conditions", ())}
        current = status.get("observedGeneration", 0) >= node.told
        phase = status.get("phase")
        heartbeat = status.get("heartbeatTime")
        node.heartbeat = datetime.fromisoformat(heartbeat) if heartbeat else None
        node.done = (
            current
            and status.get("mode") == node.mode
            and conditions.get("Ready") == "True"
            and phase not in ("Switching", "Failed")
        )
        if current and phase == "Failed":
            node.failed_turn = node.told
        preflight = status.get("preflight") or {}
        node.preflight = preflight.get("mode", "")
        node.blockers = any(result["verdict"] == "block" for result in preflight.get("results", ()))

    def _telling(self, seen: Seen, node: _Node, *, was_in_flight: bool) -> None:
        self.told += 1
        name = seen.raw["metadata"]["name"]
        if not was_in_flight:
            ill = {other for other, since in self._ill.items() if seen.at - since > GRACE_SECONDS}
            if len(self._in_flight) > self.budget:
                self._violated(seen, f"told as one of {len(self._in_flight)} in flight, maxUnavailable {self.budget}")
            elif len(self._in_flight | ill) > self.budget:
                self._violated(seen, f"told while {len(self._in_flight | ill)} are unavailable of {self.budget}")
        if self._pause_heard:
            self._violated(seen, "told while paused")
        if node.mode not in self._modes:
            self._violated(seen, f"told to run {node.mode}, which nobody asked for")
        if node.blockers and node.preflight == node.mode and not was_in_flight:
            self._violated(seen, f"told to run {node.mode}, which its preflight blocks")
        if node.mode == self._status.get("mode"):
            self._in_turn(seen, node, name)

    def _in_turn(self, seen: Seen, node: _Node, name: str) -> None:
        soaks = {stage["name"]: parse_duration(stage.get("soak", "0")) for stage in self._spec["rollout"]["stages"]}
        at = datetime.fromisoformat(json.loads(node.written[1])["at"])
        for stage in self._status.get("stages", ()):
            if stage["name"] == node.stage:
                return
            complete = stage.get("completedAt")
            if complete is None:
                self._violated(seen, f"told in stage {node.stage} before {stage['name']} was complete")
            elif stage.get("nodes") and at < datetime.fromisoformat(complete) + soaks.get(stage["name"], timedelta(0)):
                self._violated(seen, f"told in stage {node.stage} before {stage['name']} had soaked")
        self._violated(seen, f"told in stage {node.stage!r}, which there is not")
