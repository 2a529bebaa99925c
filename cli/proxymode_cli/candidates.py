"""Names that a shell may offer to complete, asked of the cluster; one that cannot be asked has none, without a word."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import typer  # noqa: TC002 - typer resolves annotations at run time

from proxymode_api.reasons.explain import PAGES
from proxymode_cli.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable

    from proxymode_cli.cluster import Cluster

PATIENCE: Final = (2.0, 3.0)
"""Seconds to connect, and without a byte: a shell waits."""


def proxy_modes(ctx: typer.Context) -> list[str]:
    """Names of ProxyModes."""
    return _ask(ctx, lambda cluster: sorted(cluster.proxy_mode_names()))


def nodes(ctx: typer.Context) -> list[str]:
    """Names of nodes that have an agent or had one."""
    return _ask(ctx, lambda cluster: sorted(cluster.node_names()))


def stages(ctx: typer.Context) -> list[str]:
    """Stages of the ProxyMode that is named, or of the only one."""
    name = ctx.params.get("name")
    return _ask(ctx, lambda cluster: [stage.name for stage in cluster.proxy_mode(name).spec.rollout.stages])


def contexts(ctx: typer.Context) -> list[str]:
    """Contexts of the kubeconfig."""
    from kubernetes.config import list_kube_config_contexts  # slow to import

    from proxymode_cli.kubeconfig import UNUSABLE

    try:
        found, _ = list_kube_config_contexts(config_file=ctx.params.get("kubeconfig"))  # type: ignore[no-untyped-call]
        return [str(context["name"]) for context in found]
    except UNUSABLE:
        return []


def codes() -> list[tuple[str, str]]:
    """Codes that have a page, with its first sentence."""
    return [(code, page.means.partition(". ")[0]) for code, page in PAGES.items()]


def _ask(ctx: typer.Context, question: Callable[[Cluster], list[str]]) -> list[str]:
    from proxymode_cli.cluster import Cluster  # slow to import: not for completing a command's name

    given = {**(ctx.parent.params if ctx.parent else {}), **{k: v for k, v in ctx.params.items() if v is not None}}
    try:
        return question(Cluster(given.get("kubeconfig"), given.get("context"), timeout=PATIENCE))
    except UserError:
        return []
