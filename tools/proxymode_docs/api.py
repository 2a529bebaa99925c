"""docs/reference/api.md: every field of ProxyMode and NodeProxyMode, from the schemas that the API server enforces."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from proxymode_api.crdgen.crds import nodeproxymodes, proxymodes

if TYPE_CHECKING:
    from collections.abc import Iterator

_OPENING: Final = """# The API, field by field

`kubectl explain proxymode.spec` says the same, on the cluster itself. This page is written from the code
(`make generate`). A field with a default may be left out; one that is _required_ may not. `[]` stands for each item of
a list.
"""


class Field(NamedTuple):
    """One line: path below the object, type as people say it, whether it must be given, and what it means."""

    path: str
    kind: str
    required: bool
    text: str


def render() -> str:
    """The document's text."""
    lines = [_OPENING]
    for definition in (proxymodes(), nodeproxymodes()):
        kind = definition["spec"]["names"]["kind"]
        schema = definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
        lines += [f"## {kind}", "", schema["description"], ""]
        for part in ("spec", "status"):
            lines += [f"### {kind}.{part}", "", *_table(schema["properties"][part], part), ""]
    return "\n".join(lines).rstrip() + "\n"


def fields(schema: dict[str, Any], path: str) -> Iterator[Field]:
    """The fields below `schema`, parents before children."""
    required = schema.get("required", ())
    for name, child in schema.get("properties", {}).items():
        below = f"{path}.{name}"
        yield Field(below, _kind(child), name in required, child.get("description", ""))
        inner = child.get("items", child)
        yield from fields(inner, f"{below}[]" if inner is not child else below)


def _table(schema: dict[str, Any], part: str) -> list[str]:
    rows = ["| Field | Type | Meaning |", "|---|---|---|"]
    for field in fields(schema, part):
        must = " _Required._" if field.required and part == "spec" else ""
        rows.append(f"| `{field.path}` | {field.kind} | {_cell(field.text)}{must} |")
    return rows


def _kind(schema: dict[str, Any]) -> str:
    if schema.get("x-kubernetes-int-or-string"):
        return "integer or string"
    if "enum" in schema:
        return " \\| ".join(f"`{value}`" for value in schema["enum"])
    match schema.get("type"):
        case "array":
            return f"list of {_kind(schema['items'])}"
        case "object" if "additionalProperties" in schema:
            return "map of strings"
        case "string" if schema.get("format") == "date-time":
            return "time"
        case kind:
            return str(kind) + _bounds(schema)


def _bounds(schema: dict[str, Any]) -> str:
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is None and high is None:
        return ""
    if high is None:
        return f", {low} or more"
    return f", {low} to {high}" if low is not None else f", at most {high}"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")
