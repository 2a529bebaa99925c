"""docs/reference/flags.md: the flags of agent and operator, from their parsers."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Final

from proxymode_agent.flag_parser import flag_parser as agent_flags
from proxymode_operator import settings as operator_settings

if TYPE_CHECKING:
    from collections.abc import Iterator

_OPENING: Final = """# Flags of agent and operator

What the manifests do not set has the default given here. This page is written from the code (`make generate`). The
plugin's are in [kubectl proxymode](plugin.md).
"""


def render() -> str:
    """The document's text."""
    agent = agent_flags("as uname -n says")
    operator = operator_settings.flag_parser({})
    lines = [_OPENING, "## proxymode-agent", "", agent.description or "", ""]
    for group in agent._action_groups:
        rows = list(_rows(agent, group._group_actions))
        if rows:
            lines += [f"### {(group.title or '').capitalize()}", ""]
            lines += [group.description, ""] if group.description else []
            lines += ["| Flag | Meaning |", "|---|---|", *rows, ""]
    lines += ["## proxymode-operator", "", operator.description or "", "", "| Flag | Meaning |", "|---|---|"]
    lines += _rows(operator, operator._actions)
    return "\n".join(lines).rstrip() + "\n"


def _rows(parser: argparse.ArgumentParser, actions: list[argparse.Action]) -> Iterator[str]:
    formatter = parser._get_formatter()
    for action in actions:
        if isinstance(action, argparse._HelpAction | argparse._VersionAction):
            continue
        value = f" {action.metavar}" if isinstance(action.metavar, str) and action.nargs != 0 else ""
        names = ", ".join(f"`{name}{value}`" for name in action.option_strings)
        text = formatter._expand_help(action).replace("|", "\\|")
        yield f"| {names.replace('|', chr(92) + '|')} | {text[:1].upper()}{text[1:]} |"
