"""How kube-proxy's DaemonSet is kept off the agents' nodes, and how it gets back what was there before. Pure.

From the DaemonSet controller (k8s.io/kubernetes pkg/controller/daemon):

- `manage` deletes the pod of a node as soon as the template's node affinity does not match the node, and makes one as
  soon as it does, whatever the update strategy. So one label moves one node, either way.
- `rollingUpdate` replaces pods whose template hash is another than the current one; with OnDelete nothing does. An
  affinity term is part of the template. So the strategy becomes OnDelete in the same write as the term, and no
  kube-proxy on a node whose turn has not come is restarted.
- The hash comes from a ControllerRevision that is found again by the template's content. So when the template is put
  back exactly, pods from before the take-over have the current hash again, and RollingUpdate can be put back in the
  same write without touching them. Pods that were made in between (on nodes that joined, or were handed back) have the
  other hash and are then replaced once, as many at a time as the DaemonSet's maxUnavailable says.

While the term is there the strategy stays OnDelete: a new image of kube-proxy then reaches a node when its pod is
deleted. Whoever replaces the whole object (kubeadm upgrade does) takes the term away, and kube-proxy starts beside the
agents: the next look, seconds later, puts it back.

nodeSelectorTerms are alternatives, so every one of them needs the expression; a term without any matches no node and
must stay so. The list is atomic: whoever applies one expression owns all of it, hence the note of what it was.
"""

from __future__ import annotations

import json
from typing import Any, Final, NamedTuple

from proxymode_api.labels import SERVICE_PROXY_AGENT, SERVICE_PROXY_LABEL

Json = dict[str, Any]

BEFORE_ANNOTATION: Final = "proxymode.io/before-take-over"
"""On kube-proxy's DaemonSet: its required node affinity and its update strategy as they were."""

_ON_DELETE: Final = "OnDelete"
_EXPRESSION: Final[Json] = {"key": SERVICE_PROXY_LABEL, "operator": "NotIn", "values": [SERVICE_PROXY_AGENT]}


class _Before(NamedTuple):
    required: Json | None
    strategy: str


def kept_off(daemon_set: Json) -> bool:
    """Whether the DaemonSet leaves labelled nodes, and restarts no pod elsewhere because of it."""
    required = _required(daemon_set)
    terms = required.get("nodeSelectorTerms", []) if required else []
    excluded = bool(terms) and all(_is_void(term) or _EXPRESSION in term.get("matchExpressions", ()) for term in terms)
    return excluded and _strategy(daemon_set) == _ON_DELETE and _noted(daemon_set) is not None


def edit(daemon_set: Json, *, keep_off: bool) -> Json | None:
    """The whole of what is ours in the DaemonSet, for a server-side apply; None: it is as it should be."""
    noted = _noted(daemon_set)
    if keep_off:
        return None if kept_off(daemon_set) else _keep_off(daemon_set, noted)
    return None if noted is None else _put_back(daemon_set, noted)


def _keep_off(daemon_set: Json, noted: _Before | None) -> Json:
    found = _required(daemon_set)
    strategy = _strategy(daemon_set)
    if noted is not None and strategy == _ON_DELETE:
        strategy = noted.strategy  # somebody else changed the affinity, and left the strategy that we had set
    before = _Before(_without(found), strategy)
    terms = before.required["nodeSelectorTerms"] if before.required else [{"matchExpressions": []}]
    added = [
        term
        if before.required and _is_void(term)
        else term | {"matchExpressions": [*term.get("matchExpressions", []), _EXPRESSION]}
        for term in terms
    ]
    body = _body(daemon_set, {"nodeSelectorTerms": added}, _ON_DELETE)
    body["metadata"]["annotations"] = {
        BEFORE_ANNOTATION: json.dumps({"required": before.required, "strategy": before.strategy}, sort_keys=True)
    }
    return body


def _put_back(daemon_set: Json, before: _Before) -> Json:
    return _body(daemon_set, before.required, before.strategy)


def _body(daemon_set: Json, required: Json | None, strategy: str) -> Json:
    meta = daemon_set["metadata"]
    spec: Json = {"updateStrategy": {"type": strategy}}
    if required is not None:
        affinity = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}}
        spec["template"] = {"spec": {"affinity": affinity}}
    return {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {
            "name": meta["name"],
            "namespace": meta["namespace"],
            "uid": meta["uid"],
            "resourceVersion": meta["resourceVersion"],
        },
        "spec": spec,
    }


def _required(daemon_set: Json) -> Json | None:
    affinity = daemon_set["spec"]["template"]["spec"].get("affinity") or {}
    found: Json | None = (affinity.get("nodeAffinity") or {}).get("requiredDuringSchedulingIgnoredDuringExecution")
    return found


def _without(required: Json | None) -> Json | None:
    """The node selector without our expression; None where nothing else was in it."""
    if required is None:
        return None
    terms = []
    for term in required.get("nodeSelectorTerms", []):
        expressions = [each for each in term.get("matchExpressions", []) if each != _EXPRESSION]
        rest = {key: value for key, value in term.items() if key != "matchExpressions"}
        stripped = rest | ({"matchExpressions": expressions} if expressions else {})
        if stripped or _is_void(term):
            terms.append(stripped)
    return {"nodeSelectorTerms": terms} if terms else None


def _is_void(term: Json) -> bool:
    """Whether the term matches no node (NodeSelectorTerm: a null or empty one matches no objects)."""
    return not term.get("matchExpressions") and not term.get("matchFields")


def _strategy(daemon_set: Json) -> str:
    return str(daemon_set["spec"].get("updateStrategy", {}).get("type", "RollingUpdate"))


def _noted(daemon_set: Json) -> _Before | None:
    """What was there before, as we wrote it down; None also where somebody made it unreadable."""
    text = daemon_set["metadata"].get("annotations", {}).get(BEFORE_ANNOTATION)
    if text is None:
        return None
    try:
        found = json.loads(text)
        return _Before(found["required"], str(found["strategy"]))
    except (ValueError, KeyError, TypeError):
        return None
