"""For every test: a skipped test is a failed one. A capability that is missing must be installed, not passed over.

Whatever pytest would count as neither passed nor failed counts as failed: a skip, in a test or of a module; a test
that is expected to fail; a parametrization over nothing (`empty_parameter_set_mark`, in pyproject.toml).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from collections.abc import Generator

# How long an example takes, and how long it takes to think of one, is the machine's business.
settings.register_profile("no time limits", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("no time limits")

Report = TypeVar("Report", pytest.CollectReport, pytest.TestReport)


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    return _failed_where_skipped((yield))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    return _failed_where_skipped((yield))


def _failed_where_skipped(report: Report) -> Report:
    """In the process that runs the test, so that every reporter, and pytest-xdist, hears of a failure."""
    expected = getattr(report, "wasxfail", None)
    if expected is not None:
        del report.wasxfail
        report.longrepr = f"expected to fail ({expected or 'no reason given'}), which counts as failed"
        report.outcome = "failed"
    elif report.skipped:
        why = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longreprtext
        report.longrepr = f"{why}; what is skipped counts as failed"
        report.outcome = "failed"
    return report
