"""Annotations by which people steer a rollout that is under way, or one Service. Pure; part of the API.

Those of a ProxyMode are said once about one revision and are no lasting wish, hence no fields of the spec. That of a
NodeProxyMode lasts until it is taken away; it is no field since its spec is the operator's to write. The operator's own
notes are not here: nobody else reads them.
"""

from __future__ import annotations

from typing import Final

CHANGE_CAUSE_ANNOTATION: Final = "kubernetes.io/change-cause"
"""On a ProxyMode: why it was changed, as kubectl rollout history knows it; kept with the rollout that then begins."""

PROMOTE_ANNOTATION: Final = "proxymode.io/promote"
"""On a ProxyMode: the name of a stage that waits for approval, or PROMOTE_ALL. The operator takes it away again."""

PROMOTE_ALL: Final = "all"

ABORT_ANNOTATION: Final = "proxymode.io/abort"
"""On a ProxyMode: the number of the revision that shall start nothing more."""

UNDO_ANNOTATION: Final = "proxymode.io/undo"
"""On a ProxyMode, written together with another spec.mode: that this takes a rollout back, and how: Reverse, the last
stage first, or AtOnce, all stages together. The operator takes it away again."""

RETRY_ANNOTATION: Final = "proxymode.io/retry"
"""On a ProxyMode: names of failed nodes that shall try again, with commas between them, or RETRY_ALL. The operator
takes it away again."""

RETRY_ALL: Final = "all"

SKIP_ANNOTATION: Final = "proxymode.io/skip"
"""On a NodeProxyMode: why rollouts shall go round this node, as long as it is there."""

IPVS_SCHEDULER_ANNOTATION: Final = "proxymode.io/ipvs-scheduler"
"""On a Service: the IPVS scheduler of its virtual servers, in the place of the ProxyMode's; read in ipvs mode only."""
