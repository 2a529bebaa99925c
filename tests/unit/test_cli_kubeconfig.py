"""A kubeconfig that cannot be used: one line that names the file, and what would be right."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from proxymode_cli.cluster import Cluster
from proxymode_cli.errors import ExitCode, UserError

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
