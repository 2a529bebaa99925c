"""The view model as JSON or YAML: camelCase names, RFC 3339 times, nothing that is not set."""

from __future__ import annotations

import dataclasses
import json
from datetime import UTC, datetime
from enum import Enum, StrEnum
from typing import Any

from pydantic import BaseModel
from pydantic.alias_generators import to_camel

import yaml


class Format(StrEnum):
    """-o: what a read command prints instead of tables; wide: tables with more columns."""

    JSON = "json"
    YAML = "yaml"
    WIDE = "wide"


def text(value: Any, form: Format) -> str:
    """The value as JSON, or else as YAML, with a line break at the end."""
    found = plain(value)
    if form is Format.JSON:
        return json.dumps(found, indent=2, ensure_ascii=False) + "\n"
    return yaml.safe_dump(found, sort_keys=False, allow_unicode=True)


def plain(value: Any) -> Any:
    """The value as JSON's types."""
    if isinstance(value, BaseModel):
        return plain(value.model_dump(by_alias=True, exclude_none=True))
    if dataclasses.is_dataclass(value):
        pairs = ((field.name, getattr(value, field.name)) for field in dataclasses.fields(value))
        return {to_camel(name): plain(entry) for name, entry in pairs if entry is not None}
    if isinstance(value, dict):
        return {plain(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    return value
