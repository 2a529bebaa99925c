"""Structured logging: one line an event, as logfmt (`key=value`) or JSON, on standard error.

Shared by operator and agent, and below both. Code logs through the standard library with a constant message and
`extra=`; the message says what happened, the fields say to what. Nothing here keeps, ships or samples logs.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator


class LogFormat(StrEnum):
    """Values of --logging-format."""

    LOGFMT = "logfmt"
    JSON = "json"


_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_KOPF: Final = frozenset({"settings", "k8s_ref", "k8s_skip"})
"""What kopf adds to its own records, for its own handlers."""

_PLAIN: Final = re.compile(r"^[^\s\"=\\]+$")
_OUR_PACKAGE: Final = re.compile(r"^proxymode_\w+\.")


def fields(record: logging.LogRecord) -> Iterator[tuple[str, object]]:
    """A record's fields in the order in which they are written."""
    yield "ts", datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    yield "level", record.levelname.lower()
    yield "msg", record.getMessage()
    yield "logger", _OUR_PACKAGE.sub("", record.name)
    for key, value in vars(record).items():
        if key not in _STANDARD and key not in _KOPF:
            yield key, value
    if record.exc_info:
        yield "traceback", logging.Formatter().formatException(record.exc_info)


class LogfmtFormatter(logging.Formatter):
    """`ts=… level=info msg="synced" kind=full`; values are quoted where they need it, line breaks escaped."""

    def format(self, record: logging.LogRecord) -> str:
        return " ".join(f"{key}={_logfmt_value(value)}" for key, value in fields(record))


class JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        return json.dumps(dict(fields(record)), default=str, ensure_ascii=False)


def set_up(form: LogFormat, *, debug: str = "") -> None:
    """Log everything of this process in `form` from level info on, and the package `debug` from level debug on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if form is LogFormat.JSON else LogfmtFormatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    if debug:
        logging.getLogger(debug).setLevel(logging.DEBUG)


def _logfmt_value(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    text = str(value)
    return text if _PLAIN.match(text) else json.dumps(text, ensure_ascii=False)
