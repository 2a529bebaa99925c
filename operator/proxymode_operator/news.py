"""What another version of a NodeProxyMode says that the one before did not. Pure.

Solves: a fleet of 5,000 writes 83 heartbeats a second, nearly all of which say nothing else; and they are dated by the
clocks of 5,000 nodes, some of which are wrong. Deliberately knows nothing of what comes of news; that is `cache`.
"""

from __future__ import annotations

import dataclasses
from operator import attrgetter
from typing import TYPE_CHECKING, Final

from proxymode_api.modes import KubeProxyPolicy
from proxymode_operator.rollout.assess import SILENT_AFTER
from proxymode_operator.rollout.model import Asked, Report

if TYPE_CHECKING:
    from datetime import datetime

    from proxymode_operator.objects import StoredNodeProxyMode

_said: Final = attrgetter(*(f.name for f in dataclasses.fields(Report) if f.name not in ("heartbeat", "heard_at")))
_told: Final = attrgetter(*(f.name for f in dataclasses.fields(Asked) if f.name != "resource_version"))


def heard(new: StoredNodeProxyMode, old: StoredNodeProxyMode | None, now: datetime) -> StoredNodeProxyMode:
    """With the times at which the agent was heard of and was ready: a node's clock may be wrong, ours at least stays
    the same."""
    report = new.report
    if report is None:
        return new
    before = old.report if old is not None else None
    if before is None:
        heard_at, known_since = min(report.heartbeat, now), now
    else:
        heard_at = before.heard_at if report.heartbeat == before.heartbeat else now
        known_since = before.known_since
    ready_since = _ready_since(report, before, now)
    times = dataclasses.replace(report, heard_at=heard_at, known_since=known_since, ready_since=ready_since)
    return dataclasses.replace(new, report=times)


def _ready_since(report: Report, before: Report | None, now: datetime) -> datetime | None:
    """No later than it was first heard of: else a node whose clock is ahead would count as not yet ready for long
    enough, or as not yet overdue, for as long as it is ahead."""
    if before is not None and before.ready_told == report.ready_told:
        return before.ready_since
    return report.ready_told and min(report.ready_told, now.replace(microsecond=0))


def is_news(old: StoredNodeProxyMode, new: StoredNodeProxyMode) -> bool:
    """Whether anything but the heartbeat and the version differs, or an agent is back from silence."""
    before, after = old.report, new.report
    if before is None or after is None or old.asked is None or new.asked is None:
        return (old.asked, before) != (new.asked, after)
    if after.heard_at - before.heard_at >= SILENT_AFTER / 2:
        return True
    same = _said(before) == _said(after) and _told(old.asked) == _told(new.asked)
    return not (same and (old.uid, old.owner_uid) == (new.uid, new.owner_uid))


def takes_over(stored: StoredNodeProxyMode) -> bool:
    """Whether its node was told another policy towards kube-proxy than Ignore."""
    asked = stored.asked
    return asked is not None and asked.intent.options.kube_proxy.policy is not KubeProxyPolicy.IGNORE
