"""Log lines: one an event, fields that a machine reads back."""

from __future__ import annotations

import json
import logging
import sys

import pytest

from proxymode_log import JsonFormatter, LogfmtFormatter, LogFormat, set_up


def record(message: str, **extra: object) -> logging.LogRecord:
    logger = logging.getLogger("proxymode_agent.engine.engine")
    return logger.makeRecord(logger.name, logging.WARNING, "file", 1, message, (), None, extra=extra)


def test_logfmt() -> None:
    line = LogfmtFormatter().format(
        record("drift repaired", written=3, ok=True, service="ns/web:http", error='said "no"\nand left', empty="")
    )
    assert line.startswith("ts=20")
    assert line.partition(" ")[2] == (
        'level=warning msg="drift repaired" logger=engine.engine written=3 ok=true service=ns/web:http '
        'error="said \\"no\\"\\nand left" empty=""'
    )


def test_json_reads_back() -> None:
    fields = json.loads(JsonFormatter().format(record("synced", written=3, mode=None, what=b"x")))
    assert fields.pop("ts").endswith("Z")
    assert fields == {
        "level": "warning",
        "msg": "synced",
        "logger": "engine.engine",
        "written": 3,
        "mode": None,
        "what": "b'x'",
    }


@pytest.mark.parametrize("formatter", [LogfmtFormatter(), JsonFormatter()])
def test_a_traceback_stays_within_its_line(formatter: logging.Formatter) -> None:
    try:
        raise RuntimeError("boom")
    except RuntimeError:
        logger = logging.getLogger("proxymode_agent.x")
        failed = logger.makeRecord(logger.name, logging.ERROR, "file", 1, "failed", (), sys.exc_info())
    line = formatter.format(failed)
    assert "\n" not in line
    assert "RuntimeError: boom" in line


def test_debug_lines_of_one_package_only() -> None:
    root, ours = logging.getLogger(), logging.getLogger("proxymode_agent")
    before = (list(root.handlers), root.level)
    try:
        set_up(LogFormat.JSON)
        assert not ours.isEnabledFor(logging.DEBUG)
        set_up(LogFormat.JSON, debug="proxymode_agent")
        assert logging.getLogger("proxymode_agent.engine").isEnabledFor(logging.DEBUG)
        assert not logging.getLogger("aiohttp").isEnabledFor(logging.DEBUG)
    finally:
        root.handlers[:], root.level = before[0], before[1]
        ours.setLevel(logging.NOTSET)
