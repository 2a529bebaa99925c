"""For every test: a skipped test is a failed run. A capability that is missing must be installed, not passed over."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from collections.abc import Sequence

settings.register_profile("no time limits", deadline=None)  # how long an example takes is the machine's business
settings.load_profile("no time limits")

_skipped: list[str] = []


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.skipped and not hasattr(report, "wasxfail"):
        _skipped.append(report.nodeid)


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    if _skipped and exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    skipped: Sequence[str] = _skipped
    if skipped:
        terminalreporter.write_line(f"{len(skipped)} skipped tests count as failures: {', '.join(skipped)}", red=True)
