"""A kubeconfig that cannot be used: one line that names the file, and what would be right. And whose clock counts."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
import typer
from typer.main import get_command

from proxymode_cli import candidates
from proxymode_cli.cluster import Cluster, ahead
from proxymode_cli.errors import ExitCode, UserError
from proxymode_cli.main import app

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (None, "no such file; name one by --kubeconfig or $KUBECONFIG"),
        ("root:x:0:0", "it is not a mapping with clusters, users and contexts, as kubeconfig files are"),
        ("- a list", "it is not a mapping with clusters, users and contexts, as kubeconfig files are"),
        ("kind: Config", "Invalid kube-config file. Expected key current-context in"),
    ],
)
def test_why_it_cannot_be_used(content: str | None, why: str, tmp_path: Path) -> None:
    path = tmp_path / "config"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError) as refused:
        Cluster(str(path), None)
    assert str(refused.value).startswith(f"kubeconfig {path} cannot be used: {why}")
    assert refused.value.code is ExitCode.CLUSTER


def test_one_that_cannot_be_used_has_no_contexts_to_complete(tmp_path: Path) -> None:
    path = tmp_path / "config"
    context = typer.Context(get_command(app))
    context.params["kubeconfig"] = str(path)
    for content in ("- a list", "root:x:0:0", "{", "contexts: 3"):
        path.write_text(content)
        assert candidates.contexts(context) == []


@pytest.mark.parametrize(
    ("date", "found"),
    [
        ("Sat, 21 Nov 2026 12:10:00 GMT", timedelta(minutes=10)),
        ("Sat, 21 Nov 2026 11:00:00 GMT", timedelta(hours=-1)),
        ("Sat, 21 Nov 2026 11:59:57 GMT", timedelta()),
        ("yesterday", timedelta()),
        ("", timedelta()),
    ],
)
def test_ages_are_by_the_api_servers_clock_where_the_users_is_wrong(date: str, found: timedelta) -> None:
    assert ahead(date, datetime(2026, 11, 21, 12, tzinfo=UTC)) == found
