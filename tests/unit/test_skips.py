"""No test is passed over: pytest's ways to do so count as failures, and `make test` runs every test file."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
TESTS = ROOT / "tests"
WAYS = {
    "in a test": 'def test(): pytest.skip("no such kernel")',
    "in a fixture": '@pytest.fixture\ndef kernel(): pytest.skip("no")\ndef test(kernel): pass',
    "by a mark": "@pytest.mark.skip\ndef test(): pass",
    "by a condition": '@pytest.mark.skipif(True, reason="no")\ndef test(): pass',
    "of a module": 'pytest.skip("no", allow_module_level=True)',
    "of a library": 'pytest.importorskip("no_such_library")',
    "by expecting the failure": "@pytest.mark.xfail\ndef test(): assert False",
    "by expecting a failure that does not come": "@pytest.mark.xfail\ndef test(): pass",
    "in a test that then fails as expected": "def test(): pytest.xfail()",
    "of no parameters": '@pytest.mark.parametrize("kernel", [])\ndef test(kernel): pass',
}


@pytest.mark.parametrize("processes", ["-n0", "-n1"], ids=["in one process", "under xdist"])
def test_whatever_is_passed_over_is_a_failure(processes: str, tmp_path: Path) -> None:
    for name in ("pyproject.toml", "tests/conftest.py"):
        (tmp_path / Path(name).name).write_text((ROOT / name).read_text())
    (tmp_path / "test_none.py").write_text("def test(): pass\n")
    for number, way in enumerate(WAYS.values()):
        (tmp_path / f"test_{number}.py").write_text(f"import pytest\n{way}\n")
    command = [sys.executable, "-m", "pytest", processes, "--continue-on-collection-errors"]
    outside = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run([*command, "."], cwd=tmp_path, env=outside, capture_output=True, text=True, check=False)
    assert done.returncode == pytest.ExitCode.TESTS_FAILED, done.stdout
    lines = done.stdout.splitlines()
    for number, way in enumerate(WAYS):
        said = [line for line in lines if line.startswith((f"FAILED test_{number}.py", f"ERROR test_{number}.py"))]
        assert len(said) == 1, f"{way}: {done.stdout}"
    assert re.sub(r" in .*", "", lines[-1]).strip("= ") == "4 failed, 1 passed, 6 errors"


def test_make_runs_every_test_file_and_names_none_that_is_not_there() -> None:
    run = {file for path in paths_of_make() for file in ([path] if path.suffix else path.rglob("test_*.py"))}
    assert run == set(TESTS.rglob("test_*.py"))


def test_make_lets_pytest_look_for_no_tests_by_itself() -> None:
    for command in pytests_of_make():
        assert any(word.startswith("tests/") for word in command), command


def paths_of_make() -> Iterator[Path]:
    for command in pytests_of_make():
        yield from (ROOT / word for word in command if word.startswith("tests/"))


def pytests_of_make() -> list[list[str]]:
    """What `make test` would run of pytest."""
    done = subprocess.run(["make", "--dry-run", "test"], cwd=ROOT, capture_output=True, text=True, check=True)
    commands = [shlex.split(line, comments=True) for line in done.stdout.splitlines() if "/pytest " in line]
    assert len(commands) == 6, commands
    return commands
