"""The scripts that have a shell complete `kubectl-proxymode`; kubectl completes its plugins by itself."""

from __future__ import annotations

from enum import StrEnum
from typing import Final


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
