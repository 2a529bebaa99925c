"""A pydantic model as a structural schema, the form of OpenAPI v3 that the API server takes in a CRD.

Solves: pydantic writes JSON Schema 2020-12 ($ref, null, examples, title), the API server wants everything inline and
nothing but its own keywords. Whatever this module does not know is an error that names the place, never dropped.
Deliberately not general: it knows what the models in this package use.

Reference: apiextensions.k8s.io/v1 JSONSchemaProps; "Specifying a structural schema" in the Kubernetes documentation.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, NoDefault

from proxymode_api.rules import KEY as RULES

if TYPE_CHECKING:
    from pydantic_core import core_schema

Schema = dict[str, Any]

_KEPT: Final = (
    "description",
    "type",
    "format",
    "enum",
    "default",
    "minimum",
    "maximum",
    "minLength",
    "maxLength",
    "pattern",
    "minItems",
    "maxItems",
    "maxProperties",
    "required",
    RULES,
    "x-kubernetes-list-type",
    "x-kubernetes-list-map-keys",
    "x-kubernetes-map-type",
)
"""Keywords copied as they are, in the order in which they are written."""

_DROPPED: Final = frozenset({"title"})
_REWRITTEN: Final = frozenset({"$ref", "$defs", "anyOf", "examples", "properties", "additionalProperties", "items"})


def structural(model: type[BaseModel], *, defaults: bool) -> Schema:
    """The structural schema of one model, every $ref inlined.

    `defaults` False leaves defaults out: in a status, what nobody has reported must stay absent.
    Raises ValueError for JSON Schema that has no structural form.
    """
    schema = model.model_json_schema(by_alias=True, schema_generator=_WithFactories)
    return _Converter(schema.get("$defs", {}), defaults=defaults).convert(schema, model.__name__)


class _WithFactories(GenerateJsonSchema):
    """Writes the default of a default_factory too."""

    def get_default_value(self, schema: core_schema.WithDefaultSchema) -> Any:
        factory = schema.get("default_factory")
        value = factory() if factory is not None else schema.get("default", NoDefault)  # type: ignore[call-arg]
        return _written(value)


def _written(value: Any) -> Any:
    """A default as the CRD says it; NoDefault where empty means the same as absent.

    Objects in full: the API server checks a default against the rules as it is written, before the defaults of the
    levels below are filled in.
    """
    if isinstance(value, BaseModel):
        fields = {info.alias or name: _written(getattr(value, name)) for name, info in type(value).model_fields.items()}
        return {name: field for name, field in fields.items() if field is not NoDefault} or NoDefault
    if isinstance(value, list):
        return [_written(item) for item in value] or NoDefault
    return NoDefault if value in (None, "", {}) else value


class _Converter:
    def __init__(self, definitions: dict[str, Schema], *, defaults: bool) -> None:
        self._definitions = definitions
        self._defaults = defaults

    def convert(self, schema: Schema, where: str) -> Schema:
        schema = self._without_null(self._resolved(schema))
        unknown = schema.keys() - set(_KEPT) - _DROPPED - _REWRITTEN
        if unknown:
            raise ValueError(f"{where}: {', '.join(sorted(unknown))} has no place in a structural schema")
        out: Schema = {key: schema[key] for key in _KEPT if key in schema}
        if "anyOf" in schema:
            out |= self._int_or_string(schema, where)
        if out.get("type") == "integer":
            out["format"] = "int64"
        if "description" in out:
            out["description"] = _description(
                out["description"], schema, default=schema.get("default") if self._defaults else None
            )
        if "properties" in schema:
            out["properties"] = {
                name: self.convert(child, f"{where}.{name}") for name, child in schema["properties"].items()
            }
        if isinstance(schema.get("additionalProperties"), dict):
            out["additionalProperties"] = self.convert(schema["additionalProperties"], f"{where}.*")
        if "items" in schema:
            out["items"] = self.convert(schema["items"], f"{where}[]")
        if not self._defaults:
            out.pop("default", None)
        return out

    def _resolved(self, schema: Schema) -> Schema:
        """The definition that $ref names, under the words of the field that refers to it."""
        if "$ref" not in schema:
            return schema
        definition = self._definitions[schema["$ref"].removeprefix("#/$defs/")]
        return definition | {key: value for key, value in schema.items() if key != "$ref"}

    def _without_null(self, schema: Schema) -> Schema:
        """An optional field is one that may be absent: Kubernetes drops nulls."""
        choices = [choice for choice in schema.get("anyOf", ()) if choice != {"type": "null"}]
        if len(choices) != 1:
            return schema
        outer = {key: value for key, value in schema.items() if key not in {"anyOf", "default"}}
        return self._resolved(choices[0]) | outer

    @staticmethod
    def _int_or_string(schema: Schema, where: str) -> Schema:
        """IntOrString, whose bounds a structural schema cannot say: the field must carry a rule that does."""
        types = [choice.get("type") for choice in schema["anyOf"]]
        if types != ["integer", "string"] or RULES not in schema:
            raise ValueError(f"{where}: of unions only integer or string with a CEL rule has a structural form")
        return {
            "x-kubernetes-int-or-string": True,
            "anyOf": [{"type": "integer"}, {"type": "string"}],
            "maxLength": 16,
        }


def _description(text: str, schema: Schema, *, default: Any) -> str:
    """One line, and in it what kubectl explain does not show by itself: the default and examples."""
    parts = [" ".join(text.split())]
    if isinstance(default, str | bool | int | float):
        parts.append(f"Default: {default if isinstance(default, str) else json.dumps(default)}.")
    if "examples" in schema:
        shown = [example if isinstance(example, str) else json.dumps(example) for example in schema["examples"]]
        parts.append(f"Example{'s' if len(shown) > 1 else ''}: {', '.join(shown)}.")
    return " ".join(parts)
