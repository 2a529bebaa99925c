"""The agent that the benchmark starts: its environment is made again when something in it differs."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from proxymode_benchmarks.sync import installed
from proxymode_testbeds import cache

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "requirements").mkdir()
    for name in ("requirements/agent.lock", "pyproject.toml", "module.py"):
        (tmp_path / name).write_text(name)
    monkeypatch.setattr(installed, "_files", lambda: [tmp_path / "module.py"])

    def entry(name: str, key: str, build: Callable[[Path], None]) -> Path:
        return tmp_path / name / key

    monkeypatch.setattr(cache, "entry", entry)
    return tmp_path


def test_an_environment_is_kept_while_nothing_in_it_differs(checkout: Path) -> None:
    assert installed.environment(checkout) == installed.environment(checkout)


@pytest.mark.parametrize("name", ["requirements/agent.lock", "pyproject.toml", "module.py"])
def test_another_file_is_another_environment(checkout: Path, name: str) -> None:
    before = installed.environment(checkout)
    (checkout / name).write_text("other")
    assert installed.environment(checkout) != before


def test_all_that_the_agent_is_made_of_is_looked_at() -> None:
    names = {file.name for file in installed._files()}
    assert {"main.py", "parts.py", "modes.py"} <= names
    assert installed.root() / "agent/proxymode_agent/main.py" in installed._files()


def test_the_interpreter_is_of_the_version_of_this_one() -> None:
    code = "import sys; print(*sys.version_info[:2])"
    versions = [
        subprocess.run([program, "-c", code], capture_output=True, text=True, check=True).stdout
        for program in (installed.interpreter(), sys.executable)
    ]
    assert versions[0] == versions[1]
