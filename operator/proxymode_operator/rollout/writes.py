"""The ways in which a NodeProxyMode is written; see `planner` for when.

Solves: what exactly changes in each. Only `turn`, `return_` and `retry` change what the node's dataplane does;
`prepare` changes what the agent checks ahead, those options that its present mode does not use, and the stage; `mark`
and `release` are notes.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from proxymode_api.modes import KUBE_PROXY_MODES, KubeProxyPolicy, Mode, ObservedMode
from proxymode_operator.rollout.model import Intent, Turn, Write, WriteKind, same_options

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from proxymode_api.common import DataplaneOptions
    from proxymode_api.proxymode import ProxyMode
    from proxymode_operator.rollout.model import Asked, Node, Report, Template

RUNS: Final = {
    ObservedMode.IPVS: Mode.IPVS,
    ObservedMode.KUBE_PROXY_IPVS: Mode.IPVS,
    ObservedMode.NFTABLES: Mode.NFTABLES,
    ObservedMode.KUBE_PROXY_NFTABLES: Mode.NFTABLES,
}
"""Which mode is in a kernel, by our hand or kube-proxy's."""


def told_at(node: Node, proxy_mode: str, revision: int) -> datetime | None:
    """When this revision of this ProxyMode last told the node anything; None: it has not."""
    asked = node.asked
    if asked is None or node.foreign or asked.intent.turn is None:
        return None
    mine = asked.intent.proxy_mode == proxy_mode and asked.intent.revision == revision
    return asked.intent.turn.at if mine else None


def turn(node: Node, template: Template, proxy_mode: ProxyMode, stage: str, now: datetime) -> Write:
    """Told to run the template. What the node ran until now is noted for a rollback: what it was asked, or what was
    found on it where nobody had asked."""
    asked = _stored(node)
    before_mode, before_options = _before(asked, node.report)
    intent = Intent(
        mode=template.mode,
        target_mode=template.mode,
        options=template.options,
        connections=proxy_mode.spec.switch.connections,
        drain_timeout=proxy_mode.spec.switch.drain_timeout,
        proxy_mode=proxy_mode.metadata.name,
        revision=proxy_mode.status.revision,
        stage=stage,
        turn=Turn(
            at=now,
            generation=asked.generation + 1,
            before_mode=before_mode,
            before_options=before_options,
        ),
    )
    return Write(node=node.name, node_uid=node.uid, kind=WriteKind.TURN, intent=intent, base=asked)


def _before(asked: Asked, report: Report | None) -> tuple[Mode | None, DataplaneOptions]:
    """What a rollback returns to. From a node that is taken over kube-proxy leaves, so its way back is a hand-back."""
    options = asked.intent.options
    if asked.intent.mode is not None or report is None:
        return asked.intent.mode, options
    if report.mode in KUBE_PROXY_MODES and options.kube_proxy.policy is KubeProxyPolicy.TAKE_OVER:
        hand_back = options.kube_proxy.model_copy(update={"policy": KubeProxyPolicy.HAND_BACK})
        return Mode.NFTABLES, options.model_copy(update={"kube_proxy": hand_back})
    return RUNS.get(report.mode), options


def return_(node: Node, now: datetime) -> Write:
    """Told to run again what it ran before this revision told it."""
    asked = _stored(node)
    before = asked.way_back
    assert before is not None
    intent = replace(
        asked.intent,
        mode=before.mode,
        target_mode=before.mode,
        options=before.options,
        attempt=0,
        turn=Turn(
            at=now,
            generation=asked.generation + 1,
            before_mode=asked.intent.mode,
            before_options=asked.intent.options,
        ),
    )
    return Write(node=node.name, node_uid=node.uid, kind=WriteKind.RETURN, intent=intent, base=asked)


def retry(node: Node, now: datetime) -> Write:
    """Told to try again. What a rollback returns to stays what it was, and so does the node's place in its stage."""
    asked = _stored(node)
    note = asked.intent.turn or Turn(at=now, generation=asked.generation)
    again = note.model_copy(update={"retried_at": now, "generation": asked.generation + 1, "failed": False})
    intent = replace(asked.intent, attempt=asked.intent.attempt + 1, turn=again)
    return Write(node=node.name, node_uid=node.uid, kind=WriteKind.RETRY, intent=intent, base=asked)


def prepare(
    proxy_mode: ProxyMode, node: Node, template: Template, stage: str, *, told: bool, ended: bool
) -> Write | None:
    """Creates what is missing and tells what will come, and in which stage; None where there is nothing to tell. A
    revision that `ended` prepares no node for its template but those that are new. A node that this revision has
    `told` stays in the stage in which it was told."""
    if node.foreign:
        return None
    name, asked = proxy_mode.metadata.name, node.asked
    if asked is None:
        intent = Intent(
            target_mode=template.mode,
            options=template.options,
            connections=proxy_mode.spec.switch.connections,
            drain_timeout=proxy_mode.spec.switch.drain_timeout,
            proxy_mode=name,
            stage=stage,
        )
        return Write(node=node.name, node_uid=node.uid, kind=WriteKind.PREPARE, intent=intent, base=None)
    if ended and asked.intent.proxy_mode == name:
        return None
    intent = prepared(asked.intent, template, name)
    if intent.stage != stage and not told:
        intent = replace(intent, stage=stage)
    if intent is asked.intent:
        return None
    placed = replace(intent, stage=asked.intent.stage) == asked.intent
    kind = WriteKind.PLACE if placed else WriteKind.PREPARE
    return Write(node=node.name, node_uid=node.uid, kind=kind, intent=intent, base=asked)


def prepared(intent: Intent, template: Template, name: str) -> Intent:
    """The intent with what may be known ahead, and itself where that changes nothing. Another ProxyMode's revision
    number means nothing here."""
    options = intent.options
    if intent.mode is None:
        options = template.options
    elif intent.mode is not template.mode:
        own = template.mode.value
        options = options.model_copy(update={own: getattr(template.options, own)})
    revision = intent.revision if intent.proxy_mode == name else 0
    known = (intent.target_mode, intent.proxy_mode, intent.revision) == (template.mode, name, revision)
    if known and same_options(options, intent.options):
        return intent
    return replace(intent, target_mode=template.mode, options=options, proxy_mode=name, revision=revision)


def mark(node: Node) -> Write:
    """Noted that the switch of its last turn failed."""
    asked = _stored(node)
    note = asked.intent.turn
    assert note is not None
    intent = replace(asked.intent, turn=note.model_copy(update={"failed": True}))
    return Write(node=node.name, node_uid=node.uid, kind=WriteKind.MARK, intent=intent, base=asked)


def release(nodes: Mapping[str, Asked], uids: Mapping[str, str]) -> tuple[Write, ...]:
    """No ProxyMode decides about these any more: they keep what they were asked, and name nobody."""
    return tuple(
        Write(
            node=name,
            node_uid=uids[name],
            kind=WriteKind.RELEASE,
            intent=replace(asked.intent, target_mode=asked.intent.mode, proxy_mode="", revision=0, stage=""),
            base=asked,
        )
        for name, asked in sorted(nodes.items())
    )


def _stored(node: Node) -> Asked:
    assert node.asked is not None, f"{node.name} has no NodeProxyMode to tell"
    return node.asked
