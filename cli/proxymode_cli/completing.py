"""What a shell may offer to complete: commands and options by typer, names by asking the cluster.

One protocol for all shells, kubectl's own: `kubectl_complete-proxymode WORD…` prints one candidate a line, a tab and
what it is, and at the end a directive (https://kubernetes.io/docs/tasks/extend-kubectl/kubectl-plugins/). kubectl calls
it by itself; the scripts here are for who types `kubectl-proxymode`. It never fails and never makes a shell wait long.
"""

from __future__ import annotations

import io
import os
import shlex
import sys
from contextlib import redirect_stdout
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final, NoReturn

import typer
from typer.completion import get_completion_inspect_parameters, shell_complete

from proxymode_api.reasons.explain import PAGES
from proxymode_cli.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable

    from proxymode_cli.cluster import Cluster

COMMAND: Final = "kubectl_complete-proxymode"
NO_FILES: Final = ":4"
"""cobra's ShellCompDirectiveNoFileComp: file names are not offered."""
PATIENCE: Final = (2.0, 3.0)
"""Seconds to connect, and without a byte: a shell waits."""


class Shell(StrEnum):
    """Shells that scripts are there for."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


SCRIPTS: Final = {
    Shell.BASH: """\
_kubectl_proxymode() {
    local line
    COMPREPLY=()
    while IFS= read -r line; do
        [[ $line == :* ]] || COMPREPLY+=("${line%%$'\\t'*}")
    done < <(kubectl_complete-proxymode "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)
}
complete -F _kubectl_proxymode kubectl-proxymode
""",
    Shell.ZSH: """\
#compdef kubectl-proxymode
_kubectl_proxymode() {
    local line
    local -a found
    while IFS= read -r line; do
        [[ $line == :* ]] || found+=("${${line%%$'\\t'*}//:/\\\\:}:${line#*$'\\t'}")
    done < <(kubectl_complete-proxymode "${(@)words[2,CURRENT]}" 2>/dev/null)
    _describe 'kubectl proxymode' found
}
compdef _kubectl_proxymode kubectl-proxymode
""",
    Shell.FISH: """\
function __kubectl_proxymode
    set --local words (commandline --tokenize --cut-at-cursor --current-process)
    set --local last (commandline --cut-at-cursor --current-token)
    kubectl_complete-proxymode $words[2..] $last 2>/dev/null | string match --invert ':*'
end
complete --command kubectl-proxymode --no-files --arguments '(__kubectl_proxymode)'
""",
}


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
    from kubernetes.config import ConfigException, list_kube_config_contexts  # slow to import

    try:
        found, _ = list_kube_config_contexts(config_file=ctx.params.get("kubeconfig"))  # type: ignore[no-untyped-call]
    except (ConfigException, OSError, ValueError):
        return []
    return [str(context["name"]) for context in found]


def codes() -> list[tuple[str, str]]:
    """Codes that have a page, with its first sentence."""
    return [(code, page.means.partition(". ")[0]) for code, page in PAGES.items()]


def main() -> NoReturn:
    """The entry point of `kubectl_complete-proxymode`: all words after the command, the last one not complete."""
    from proxymode_cli.main import app  # here, since the commands need the functions above

    words = ["kubectl-proxymode", *sys.argv[1:]]
    os.environ["_TYPER_COMPLETE_FISH_ACTION"] = "get-args"
    os.environ["COLUMNS"] = "1000"  # a description stays on its line
    os.environ["_TYPER_COMPLETE_ARGS"] = shlex.join(words[:-1]) + " " + (words[-1] if len(words) > 1 else "")
    get_completion_inspect_parameters()  # registers the shells, which typer otherwise does for its own options only
    root: Any = typer.main.get_command(app)
    with redirect_stdout(io.StringIO()) as found:
        shell_complete(root, {}, words[0], "_KUBECTL_PROXYMODE_COMPLETE", "complete_fish")
    sys.stdout.writelines(f"{line}\n" for line in (*found.getvalue().split("\n"), NO_FILES) if line)
    sys.exit(0)


def _ask(ctx: typer.Context, question: Callable[[Cluster], list[str]]) -> list[str]:
    from proxymode_cli.cluster import Cluster  # slow to import: not for completing a command's name

    given = {**(ctx.parent.params if ctx.parent else {}), **{k: v for k, v in ctx.params.items() if v is not None}}
    try:
        return question(Cluster(given.get("kubeconfig"), given.get("context"), timeout=PATIENCE))
    except UserError:
        return []
