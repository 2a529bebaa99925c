"""What the watches have shown: Nodes, NodeProxyModes and ProxyModes as the planner's values.

Solves: one picture of the cluster that only moves forward (a late event or answer never brings back an older version
or a deleted object), and which ProxyModes a change concerns, so that a heartbeat asks nobody to think again.
Deliberately makes no request and takes no decision.
"""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from proxymode_api.proxymode import ProxyMode
from proxymode_operator import objects
from proxymode_operator.kubeapi import Kind
from proxymode_operator.metrics import CACHED, GHOSTS, WATCH_EVENTS
from proxymode_operator.news import heard, is_news, takes_over
from proxymode_operator.objects import StoredNodeProxyMode, Unreadable
from proxymode_operator.rollout.assess import SILENT_AFTER
from proxymode_operator.rollout.model import Fleet, Node
from proxymode_operator.rollout.selection import Selection, holds, select
from proxymode_operator.shapes import IdentityShape, read

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from proxymode_api.common import KubeProxyOptions
    from proxymode_api.deprecation import Minor
    from proxymode_operator.kubeapi import ListedObject
    from proxymode_operator.rollout.model import Asked
    from proxymode_operator.shapes import IdentityMeta, Received

RELEASE: Final = ""
"""The key of the nodes that no ProxyMode decides about but whose NodeProxyMode still names one."""

_TOMBSTONES: Final = 10_000

Value = Node | StoredNodeProxyMode | ProxyMode | Unreadable


@dataclass(frozen=True, slots=True)
class _Entry:
    uid: str
    version: int
    value: Value


class Cache:
    """`changed(key)` is called for every ProxyMode (by name; RELEASE for none) that a change may concern."""

    def __init__(
        self, changed: Callable[[str], None], clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._changed = changed
        self._clock = clock
        self._entries: dict[Kind, dict[str, _Entry]] = {kind: {} for kind in Kind}
        self._gone: OrderedDict[str, int] = OrderedDict()
        self._selection: Selection | None = None
        self._obstacles: dict[KubeProxyOptions, str] = {}
        self._nodes: dict[str, Node] = {}
        """Nodes joined with their NodeProxyModes, until one of the two changes."""
        self._handed: set[str] = set()
        """Nodes that were told another policy towards kube-proxy than Ignore."""

    # Filling it

    def put(self, kind: Kind, raw: Received) -> str:
        """An object as received; ignored when something newer is known. Returns its version."""
        meta = read(IdentityShape, raw).metadata
        self._put(kind, raw, meta)
        return meta.resource_version

    def _put(self, kind: Kind, raw: Received, meta: IdentityMeta) -> None:
        name, uid, version = meta.name, meta.uid, int(meta.resource_version)
        known = self._entries[kind].get(name)
        if self._gone.get(uid, -1) >= 0 or (known is not None and known.version >= version):
            return
        if meta.deletion_timestamp and kind is Kind.PROXY_MODE:
            # It decides no more, whatever finalizer somebody else's controller still holds.
            self._remove(kind, name, uid, version)
            return
        value: Value
        if kind is Kind.NODE_PROXY_MODE:
            before = _as_stored(known.value) if known is not None else None
            value = heard(objects.node_proxy_mode(raw, before), before, self._clock())
            (self._handed.add if takes_over(value) else self._handed.discard)(name)
        else:
            value = objects.node(raw) if kind is Kind.NODE else objects.proxy_mode(raw)
        if known is not None and value == known.value:
            value = known.value  # and so is what was made of it: most of what a kubelet reports is of no concern
        else:
            self._nodes.pop(name, None)
        self._entries[kind][name] = _Entry(uid, version, value)
        CACHED.labels(kind.value).set(len(self._entries[kind]))
        keys = self._concerned(kind, known.value if known is not None else None, value)
        WATCH_EVENTS.labels(kind.value, str(bool(keys)).lower()).inc()
        for key in keys:
            self._changed(key)

    def delete(self, kind: Kind, raw: Received) -> str:
        """The object of this uid is gone; one of the same name that was made since stays. Returns its last version."""
        meta = read(IdentityShape, raw).metadata
        self._remove(kind, meta.name, meta.uid, int(meta.resource_version))
        return meta.resource_version

    def forget(self, kind: Kind, name: str, uid: str) -> None:
        """The API server says that there is no such object."""
        self._remove(kind, name, uid, 0)

    def _remove(self, kind: Kind, name: str, uid: str, version: int) -> None:
        self._gone[uid] = version
        if len(self._gone) > _TOMBSTONES:
            self._gone.popitem(last=False)
        known = self._entries[kind].get(name)
        if known is None or known.uid != uid:
            return
        before = self._keys_now(kind, known.value)
        del self._entries[kind][name]
        self._nodes.pop(name, None)
        if kind is Kind.NODE_PROXY_MODE:
            self._handed.discard(name)
        CACHED.labels(kind.value).set(len(self._entries[kind]))
        WATCH_EVENTS.labels(kind.value, "true").inc()
        if kind is not Kind.NODE_PROXY_MODE:
            self._selection = None
        for key in before | self._all_keys() if kind is Kind.PROXY_MODE else before:
            self._changed(key)

    def behind(self, kind: Kind, listed: Iterable[ListedObject]) -> int:
        """How many of these objects the watch has not yet brought, in this version or a newer one."""
        entries = self._entries[kind]
        count = 0
        for item in listed:
            entry = entries.get(item.name)
            reached = entry is not None and entry.version >= item.resource_version
            count += not reached and item.uid not in self._gone
        return count

    def versions(self, kind: Kind) -> dict[str, int]:
        """Cached objects: uid to version."""
        return {entry.uid: entry.version for entry in self._entries[kind].values()}

    def drop_ghosts(self, kind: Kind, listed: Iterable[ListedObject], known_before: Mapping[str, str]) -> None:
        """Drops what `known_before` the list (name to uid) was cached but is not in it: a watch that had to begin
        anew does not tell what was deleted meanwhile."""
        alive = {item.uid for item in listed}
        for name, uid in known_before.items():
            if uid not in alive:
                entry = self._entries[kind].get(name)
                if entry is not None and entry.uid == uid:
                    GHOSTS.labels(kind.value).inc()
                self._remove(kind, name, uid, 0)

    def known(self, kind: Kind) -> dict[str, str]:
        """Cached objects: name to uid."""
        return {name: entry.uid for name, entry in self._entries[kind].items()}

    def obstruct(self, options: KubeProxyOptions, obstacle: str) -> None:
        """Why nodes that were told so cannot be taken over from kube-proxy; empty: they can."""
        if self._obstacles.get(options, "") != obstacle:
            self._obstacles[options] = obstacle
            for name, proxy_mode in self.proxy_modes().items():
                if proxy_mode.spec.kube_proxy == options:
                    self._changed(name)

    # Reading it

    def proxy_modes(self) -> dict[str, ProxyMode]:
        return {name: e.value for name, e in self._entries[Kind.PROXY_MODE].items() if isinstance(e.value, ProxyMode)}

    def unreadable(self) -> dict[str, Unreadable]:
        return {name: e.value for name, e in self._entries[Kind.PROXY_MODE].items() if isinstance(e.value, Unreadable)}

    def fleet(self, proxy_mode: str, cluster: Minor | None) -> Fleet | None:
        """All that the planner needs to decide for this ProxyMode; None when there is none of the name."""
        found = self.proxy_modes().get(proxy_mode)
        if found is None:
            return None
        selection = self.selection()
        return Fleet(
            proxy_mode=found,
            nodes=tuple(self._joined(name) for name in selection.members.get(proxy_mode, ())),
            overridden=selection.overridden.get(proxy_mode, {}),
            cluster=cluster,
            obstacle=self._obstacles.get(found.spec.kube_proxy, ""),
        )

    def handed(self) -> tuple[Node, ...]:
        """The Nodes that were told to take Services over from kube-proxy or to hand them back, sorted."""
        return tuple(self._joined(name) for name in sorted(self._handed) if name in self._entries[Kind.NODE])

    def silent(self) -> int:
        """Nodes with a NodeProxyMode of theirs whose agent was not heard of lately, or never."""
        now = self._clock()
        nodes = (self._joined(name) for name in self._entries[Kind.NODE])
        told = (node for node in nodes if node.asked is not None and not node.foreign)
        return sum(node.report is None or now >= node.report.heard_at + SILENT_AFTER for node in told)

    def released(self) -> tuple[dict[str, Asked], dict[str, str]]:
        """NodeProxyModes that name a ProxyMode though none decides about their node, and those nodes' uids."""
        selection = self.selection()
        asked: dict[str, Asked] = {}
        for name in self._entries[Kind.NODE_PROXY_MODE]:
            if name in selection.decided or name in selection.held or name not in self._entries[Kind.NODE]:
                continue
            node = self._joined(name)
            if node.asked is not None and not node.foreign and node.asked.intent.proxy_mode:
                asked[name] = node.asked
        return asked, {name: self._entries[Kind.NODE][name].uid for name in asked}

    def selection(self) -> Selection:
        """Which ProxyMode decides about which node, by all that is cached."""
        if self._selection is None:
            labels = {name: _as_node(entry.value).labels for name, entry in self._entries[Kind.NODE].items()}
            unreadable = frozenset(self.unreadable())
            holders = {name: self._holder(name) for name in labels} if unreadable else {}
            self._selection = select(self.proxy_modes().values(), labels, holders=holders, unreadable=unreadable)
        return self._selection

    def _holder(self, name: str) -> str:
        entry = self._entries[Kind.NODE_PROXY_MODE].get(name)
        asked = _as_stored(entry.value).asked if entry is not None else None
        return asked.intent.proxy_mode if asked is not None else RELEASE

    def _joined(self, name: str) -> Node:
        found = self._nodes.get(name)
        if found is None:
            found = self._nodes[name] = self._join(name)
        return found

    def _join(self, name: str) -> Node:
        node = _as_node(self._entries[Kind.NODE][name].value)
        entry = self._entries[Kind.NODE_PROXY_MODE].get(name)
        if entry is None:
            return node
        stored = _as_stored(entry.value)
        foreign = stored.asked is None or (stored.owner_uid != "" and stored.owner_uid != node.uid)
        return dataclasses.replace(node, asked=stored.asked, report=stored.report, foreign=foreign)

    # Whom a change concerns

    def _all_keys(self) -> set[str]:
        return {*self._entries[Kind.PROXY_MODE], RELEASE}

    def _concerned(self, kind: Kind, old: Value | None, new: Value) -> set[str]:
        match new:
            case Node():
                before = _as_node(old) if old is not None else None
                replaced = before is None or before.uid != new.uid
                relabelled = before is not None and before.labels != new.labels
                if replaced or (relabelled and not self._still_selected(new)):
                    self._selection = None
                    return self._all_keys()
                return self._keys_now(kind, new) if old != new else set()
            case StoredNodeProxyMode():
                if self.unreadable():
                    self._selection = None
                relevant = old is None or is_news(_as_stored(old), new)
                return self._keys_now(kind, new) if relevant else set()
            case ProxyMode():
                if isinstance(old, ProxyMode) and (old.spec, old.metadata.uid) == (new.spec, new.metadata.uid):
                    same = (old.status, old.metadata.annotations) == (new.status, new.metadata.annotations)
                    return set() if same else {new.metadata.name}
                self._selection = None
                return self._all_keys()
            case Unreadable():
                self._selection = None
                return self._all_keys()

    def _still_selected(self, node: Node) -> bool:
        if self._selection is None or self.unreadable():
            return False
        return holds(self._selection, self.proxy_modes().values(), node.name, node.labels)

    def _keys_now(self, kind: Kind, value: Value) -> set[str]:
        if isinstance(value, Node | StoredNodeProxyMode):
            # Not computed here: while thousands of objects are listed, that would be done for each of them.
            return self._all_keys() if self._selection is None else {self._selection.decided.get(value.name, RELEASE)}
        return self._all_keys() if kind is Kind.PROXY_MODE else set()


def _as_node(value: Value) -> Node:
    assert isinstance(value, Node)
    return value


def _as_stored(value: Value) -> StoredNodeProxyMode:
    assert isinstance(value, StoredNodeProxyMode)
    return value
