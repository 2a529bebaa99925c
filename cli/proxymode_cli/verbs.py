"""What each verb writes: a merge patch of one ProxyMode or of NodeProxyModes, or a refusal in words. Pure.

promote, retry, abort and undo are annotations of the ProxyMode, skip is one of a NodeProxyMode, see
`proxymode_api.annotations`; the operator takes those of promote, retry and undo away once heard.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Any, NamedTuple

from proxymode_api.annotations import (
    ABORT_ANNOTATION,
    PROMOTE_ALL,
    PROMOTE_ANNOTATION,
    RETRY_ALL,
    RETRY_ANNOTATION,
    SKIP_ANNOTATION,
    UNDO_ANNOTATION,
)
from proxymode_api.modes import KUBE_PROXY_MODES, KubeProxyPolicy, Mode
from proxymode_api.proxymode_status import FleetStatus, RolloutOrder, RolloutOutcome, StagePhase
from proxymode_cli.errors import ExitCode, UserError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from proxymode_api.nodeproxymode import NodeProxyMode
    from proxymode_api.proxymode import ProxyMode


GITOPS = ("argocd", "kustomize-controller", "helm-controller")
"""How field managers of Argo CD and Flux begin, which put back what differs from git."""


class Home(StrEnum):
    """Where an undo can lead."""

    IPVS = Mode.IPVS.value
    NFTABLES = Mode.NFTABLES.value
    KUBE_PROXY = "kube-proxy"


class Deed(NamedTuple):
    """A merge patch (None: nothing is to be done) and what to tell the user."""

    patch: dict[str, Any] | None
    told: str


def pause(found: ProxyMode) -> Deed:
    """Nothing new starts."""
    if found.spec.rollout.paused:
        return Deed(None, "is paused already")
    return Deed({"spec": {"rollout": {"paused": True}}}, "paused: nothing new starts, nodes in mid-switch finish")


def resume(found: ProxyMode) -> Deed:
    """Go on."""
    if not found.spec.rollout.paused:
        return Deed(None, "is not paused")
    return Deed({"spec": {"rollout": {"paused": False}}}, "resumed")


def promote(found: ProxyMode, stage: str | None, *, everything: bool) -> Deed:
    """Approve a stage, all stages, or without either the one that waits. Raises UserError."""
    _check_going(found)
    names = [entry.name for entry in found.spec.rollout.stages]
    if everything:
        if stage is not None:
            raise UserError("give --stage or --all, not both", ExitCode.USAGE)
        return Deed(_annotation(PROMOTE_ANNOTATION, PROMOTE_ALL), "all stages approved")
    if stage is None:
        waiting = [entry.name for entry in found.status.stages if entry.phase is StagePhase.AWAITING_APPROVAL]
        if not waiting:
            raise UserError(
                f"no stage of {found.metadata.name} waits for approval; give --stage with one of {', '.join(names)} to "
                "approve it ahead, or --all",
                ExitCode.USAGE,
            )
        stage = waiting[0]
    if stage not in names:
        raise UserError(f"{found.metadata.name} has no stage {stage!r}; it has {', '.join(names)}", ExitCode.NOT_FOUND)
    return Deed(_annotation(PROMOTE_ANNOTATION, stage), f"stage {stage} approved")


def abort(found: ProxyMode) -> Deed:
    """End this revision: nothing new starts, nodes stay in a mode that they were asked to be in. Raises UserError."""
    revision = found.status.revision
    if revision == 0:
        raise UserError(f"{found.metadata.name} has no rollout to abort", ExitCode.USAGE)
    if found.metadata.annotations.get(ABORT_ANNOTATION) == str(revision):
        return Deed(None, f"revision {revision} is aborted already")
    if found.status.status is FleetStatus.COMPLETE:
        raise UserError(f"revision {revision} of {found.metadata.name} is complete; undo takes it back", ExitCode.USAGE)
    return Deed(
        _annotation(ABORT_ANNOTATION, str(revision)),
        f"revision {revision} aborted: nothing new starts; undo takes nodes back",
    )


def retry(found: ProxyMode, nodes: Sequence[str], known: Mapping[str, NodeProxyMode]) -> Deed:
    """Tell failed nodes to try again; without names all of them. Raises UserError."""
    _check_members(found, nodes, known)
    _check_going(found)
    if found.status.nodes.failed == 0:
        raise UserError(f"no node of {found.metadata.name} has failed", ExitCode.USAGE)
    names = ",".join(dict.fromkeys(nodes)) or RETRY_ALL
    paused = "; it is paused, so nothing starts before resume" if found.spec.rollout.paused else ""
    whom = "all failed nodes try" if not nodes else f"{names.replace(',', ', ')}, where failed, tries"
    return Deed(_annotation(RETRY_ANNOTATION, names), f"{whom} again{paused}")


def skip(found: ProxyMode, nodes: Sequence[str], known: Mapping[str, NodeProxyMode], reason: str) -> Deed:
    """Rollouts go round these nodes; to be applied to each NodeProxyMode. Raises UserError."""
    _check_members(found, nodes, known)
    if not reason.strip():
        raise UserError("say why, for whoever comes after you: --reason 'broken NIC'", ExitCode.USAGE)
    return Deed(_annotation(SKIP_ANNOTATION, reason.strip()), f"goes round {', '.join(nodes)}: {reason.strip()}")


def unskip(found: ProxyMode, nodes: Sequence[str], known: Mapping[str, NodeProxyMode]) -> Deed:
    """Rollouts go round these nodes no more; to be applied to each NodeProxyMode. Raises UserError."""
    _check_members(found, nodes, known)
    if not any(SKIP_ANNOTATION in known[name].metadata.annotations for name in nodes):
        return Deed(None, f"does not go round {', '.join(nodes)}")
    return Deed(_annotation(SKIP_ANNOTATION, None), f"includes {', '.join(nodes)} again")


def undo(
    found: ProxyMode,
    nodes: Iterable[NodeProxyMode] = (),
    *,
    now: bool,
    at_once: bool = False,
    to: Home | None = None,
) -> Deed:
    """Go back to what was before, or `to`: a new revision, the last stage first, or with `at_once` all stages together.
    What was before is kube-proxy where the present revision is the one that took `nodes`, the cluster's, over from it.
    `now`: without windows. Raises UserError where it is not known what was before, and where nothing has moved or was
    taken over that could go back."""
    rollout = found.spec.rollout
    own = [node for node in nodes if node.spec.proxy_mode == found.metadata.name]
    if to is Home.KUBE_PROXY or (to is None and _takes_over(found, own)):
        home = _kube_proxy(found)
    elif to is None:
        _refuse_where_nothing_moved(found, own)
        home = _mode(found, _mode_before(found))
    else:
        home = _mode(found, Mode(to))
    if home.patch is None:
        return home
    order = _annotation(UNDO_ANNOTATION, (RolloutOrder.AT_ONCE if at_once else RolloutOrder.REVERSE).value)
    told = f"{home.told}, {'all stages at once' if at_once else 'the last stage first'}"
    if rollout.windows:
        told += ", and its windows taken out" if now else ", within spec.rollout.windows only"
    if rollout.paused:
        told += "; it is paused, so nothing moves before resume"
    windows = {"rollout": {"windows": None}} if rollout.windows and now else {}
    return Deed(order | {"spec": home.patch | windows}, told)


def written_back(found: ProxyMode, deed: Deed) -> str:
    """A warning where what the deed writes into the spec may be taken back by a program that keeps it as it is in git;
    empty: there is none."""
    writer = found.status.changed_by
    if deed.patch is None or "spec" not in deed.patch or not writer.startswith(GITOPS):
        return ""
    changed = ", ".join(f"spec.{path}" for path in sorted(_paths(deed.patch["spec"])))
    return f"{writer} writes this object and may take the change back: write it where it has it from, too ({changed})"


def _paths(patch: Mapping[str, Any]) -> Iterator[str]:
    for key, value in patch.items():
        if isinstance(value, dict):
            yield from (f"{key}.{path}" for path in _paths(value))
        else:
            yield f"{key}: {'(none)' if value is None else str(value).lower() if isinstance(value, bool) else value}"


def _takes_over(found: ProxyMode, nodes: Sequence[NodeProxyMode]) -> bool:
    """Whether nodes ran kube-proxy before the revision that the operator is at."""
    status = found.status
    moved_before = any(record.nodes for record in status.history if record.revision < status.revision)
    if found.spec.kube_proxy.policy is not KubeProxyPolicy.TAKE_OVER or status.mode is not found.spec.mode:
        return False
    return not moved_before and any(_ran_kube_proxy(node) for node in nodes)


def _ran_kube_proxy(node: NodeProxyMode) -> bool:
    last = node.status.last_switch
    return node.status.mode in KUBE_PROXY_MODES or (last is not None and last.from_mode in KUBE_PROXY_MODES)


def _refuse_where_nothing_moved(found: ProxyMode, nodes: Sequence[NodeProxyMode]) -> None:
    """Agents' modes are no way back for nodes that kube-proxy never left."""
    policy, name = found.spec.kube_proxy.policy, found.metadata.name
    if policy is KubeProxyPolicy.IGNORE and nodes and all(node.status.mode in KUBE_PROXY_MODES for node in nodes):
        raise UserError(
            f"no node of {name} has moved, all run kube-proxy; to leave it so: kubectl proxymode abort {name}",
            ExitCode.USAGE,
        )


def _mode(found: ProxyMode, back: Mode) -> Deed:
    """The spec that leads to a mode of the agents; one that hands back to kube-proxy takes over again."""
    spec = found.spec
    if spec.kube_proxy.policy is KubeProxyPolicy.HAND_BACK:
        patch = {"mode": back.value, "kubeProxy": {"policy": KubeProxyPolicy.TAKE_OVER.value}}
        return Deed(patch, f"taken over from kube-proxy again, to mode {back}")
    if back is spec.mode:
        return Deed(None, f"is to run {back} already")
    told = f"mode set back from {spec.mode} to {back}"
    if spec.kube_proxy.policy is KubeProxyPolicy.TAKE_OVER:
        told += f" of the agents (undo --to {Home.KUBE_PROXY} gives nodes back to kube-proxy)"
    return Deed({"mode": back.value}, told)


def _kube_proxy(found: ProxyMode) -> Deed:
    """The spec that hands nodes back to kube-proxy, through nftables; the API refuses any other mode for it."""
    policy = found.spec.kube_proxy.policy
    if policy is KubeProxyPolicy.HAND_BACK:
        return Deed(None, "is handed back to kube-proxy already")
    if policy is KubeProxyPolicy.IGNORE:
        raise UserError(
            f"{found.metadata.name} has taken no node over from kube-proxy: its spec.kubeProxy.policy is {policy}; "
            f"only after {KubeProxyPolicy.TAKE_OVER} is there a way back to kube-proxy",
            ExitCode.USAGE,
        )
    hand_back = {"mode": Mode.NFTABLES.value, "kubeProxy": {"policy": KubeProxyPolicy.HAND_BACK.value}}
    return Deed(hand_back, "handed back to kube-proxy")


def _mode_before(found: ProxyMode) -> Mode:
    status = found.status
    name, other = found.metadata.name, next(mode for mode in Mode if mode is not found.spec.mode)
    if status.mode is not None and status.mode is not found.spec.mode:
        return status.mode  # the operator has not begun with what the spec says now
    if status.revision == 0:
        raise UserError(f"{name} has no rollout to undo", ExitCode.USAGE)
    if status.from_mode is None:
        raise UserError(
            f"what the nodes of {name} ran before revision {status.revision} is not on record, or was not one mode; "
            f"say it: undo --to {other}{_or_kube_proxy(found)}",
            ExitCode.USAGE,
        )
    if status.from_mode is found.spec.mode and found.spec.kube_proxy.policy is not KubeProxyPolicy.HAND_BACK:
        raise UserError(
            f"revision {status.revision} of {name} changed options and not the mode, which was {found.spec.mode} "
            f"before: put the options back in the spec, or say where to: undo --to {other}{_or_kube_proxy(found)}",
            ExitCode.USAGE,
        )
    return status.from_mode


def _or_kube_proxy(found: ProxyMode) -> str:
    return f" or --to {Home.KUBE_PROXY}" if found.spec.kube_proxy.policy is KubeProxyPolicy.TAKE_OVER else ""


def _check_going(found: ProxyMode) -> None:
    """A revision that has ended early starts nothing more, whatever is wished."""
    revision = found.status.revision
    end = next((past.outcome for past in found.status.history if past.revision == revision), None)
    if end in (RolloutOutcome.ABORTED, RolloutOutcome.ROLLED_BACK):
        raise UserError(
            f"revision {revision} of {found.metadata.name} has ended ({end}) and starts nothing more: undo takes nodes "
            "back, and a change of spec.mode or its options begins another",
            ExitCode.USAGE,
        )


def _check_members(found: ProxyMode, nodes: Sequence[str], known: Mapping[str, NodeProxyMode]) -> None:
    name = found.metadata.name
    for node in nodes:
        if node not in known:
            raise UserError(f"node {node!r} not found: it has no NodeProxyMode", ExitCode.NOT_FOUND)
        if (decides := known[node].spec.proxy_mode) != name:
            raise UserError(f"node {node!r} is not decided by {name} but by {decides or 'nobody'}", ExitCode.USAGE)


def _annotation(key: str, value: str | None) -> dict[str, Any]:
    return {"metadata": {"annotations": {key: value}}}
