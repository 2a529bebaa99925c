"""The generated CRDs: fresh, structural, documented, and with the same defaults as the models."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field

import yaml
from proxymode_api import rules
from proxymode_api.crdgen.__main__ import files, main
from proxymode_api.crdgen.crds import nodeproxymodes, proxymodes
from proxymode_api.crdgen.schema import structural
from proxymode_api.durations import parse_duration
from proxymode_api.modes import Mode
from proxymode_api.nodeproxymode import NodeProxyModeSpec
from proxymode_api.proxymode import ProxyModeSpec

if TYPE_CHECKING:
    from collections.abc import Iterator

CHECKOUT = Path(__file__).parents[2]

# JSONSchemaProps of apiextensions.k8s.io/v1 that a structural schema may have.
STRUCTURAL = {
    *("type", "format", "description", "default", "enum", "pattern", "required", "properties", "items"),
    *("minimum", "maximum", "minLength", "maxLength", "minItems", "maxItems", "maxProperties"),
    *("additionalProperties", "anyOf", "x-kubernetes-int-or-string", "x-kubernetes-validations"),
    *("x-kubernetes-list-type", "x-kubernetes-list-map-keys", "x-kubernetes-map-type"),
}

# Short names that kubectl knows without our help (kubectl api-resources of a bare cluster).
BUILT_IN_SHORT_NAMES = frozenset(
    word
    for line in (
        "cm cs ep ev limits ns no pvc pv po rc quota sa svc crd crds deploy ds rs sts hpa cj csr ing netpol",
        "pdb pc sc",
    )
    for word in line.split()
)


def schema_of(crd: dict[str, Any]) -> dict[str, Any]:
    schema: dict[str, Any] = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    return schema


def nodes_of(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    yield path, schema
    for name, child in schema.get("properties", {}).items():
        yield from nodes_of(child, f"{path}.{name}")
    for key, suffix in (("items", "[]"), ("additionalProperties", "{}")):
        if key in schema:
            yield from nodes_of(schema[key], path + suffix)


BOTH = pytest.mark.parametrize("crd", [proxymodes(), nodeproxymodes()], ids=["proxymodes", "nodeproxymodes"])


def test_the_checked_in_files_are_fresh(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--check", str(CHECKOUT)]) == 0, capsys.readouterr().err


def test_check_names_every_stale_file_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "crds").mkdir()
    assert main([str(tmp_path)]) == 0
    assert main(["--check", str(tmp_path)]) == 0
    capsys.readouterr()
    (tmp_path / "crds/proxymodes.yaml").write_text("edited by hand\n")
    (tmp_path / "crds/nodeproxymodes.yaml").unlink()
    assert main(["--check", str(tmp_path)]) == 1
    complaints = capsys.readouterr().err
    assert "crds/proxymodes.yaml is stale: run python -m proxymode_api.crdgen" in complaints
    assert "crds/nodeproxymodes.yaml is stale" in complaints
    assert "deprecated-mode" not in complaints
    assert (tmp_path / "crds/proxymodes.yaml").read_text() == "edited by hand\n"


def test_a_folder_that_is_no_checkout_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main([str(tmp_path)])
    assert "has no folder crds: give the root of a checkout" in capsys.readouterr().err


def test_generating_twice_gives_the_same_text() -> None:
    assert files() == files()


def test_kubectl_can_apply_the_whole_folder() -> None:
    """`kubectl apply -f DIR` reads every .yaml, .yml and .json in it: there must be nothing but CRDs."""
    found = [path for path in (CHECKOUT / "crds").iterdir() if path.suffix in {".yaml", ".yml", ".json"}]
    kinds = {document["kind"] for path in found for document in yaml.safe_load_all(path.read_text())}
    assert kinds == {"CustomResourceDefinition"}
    assert {path.name for path in found} == {"proxymodes.yaml", "nodeproxymodes.yaml"}


@BOTH
def test_the_schema_is_structural(crd: dict[str, Any]) -> None:
    for path, node in nodes_of(schema_of(crd)):
        assert set(node) <= STRUCTURAL, path
        assert ("type" in node) != ("x-kubernetes-int-or-string" in node), path


@BOTH
def test_every_field_is_documented(crd: dict[str, Any]) -> None:
    for path, node in nodes_of(schema_of(crd)):
        if not path.endswith(("[]", "{}", ".metadata")):
            assert len(node.get("description", "")) > 5, path
            assert "\n" not in node["description"], path


@BOTH
def test_everything_that_people_write_has_a_bound(crd: dict[str, Any]) -> None:
    for path, node in nodes_of(schema_of(crd)["properties"]["spec"]):
        match node.get("type"):
            case "string":
                assert "maxLength" in node or "enum" in node, path
            case "array":
                assert "maxItems" in node, path
            case "integer":
                assert "minimum" in node, path
            case "object":
                assert "properties" in node or "maxProperties" in node, path


@BOTH
def test_a_status_has_no_defaults(crd: dict[str, Any]) -> None:
    """What nobody reported stays absent."""
    for path, node in nodes_of(schema_of(crd)["properties"]["status"]):
        assert "default" not in node, path
        assert "Default:" not in node.get("description", ""), path


def with_defaults(value: Any, schema: dict[str, Any]) -> Any:
    """What the API server does to an object: absent fields that have a default get it, level by level."""
    if isinstance(value, list):
        return [with_defaults(item, schema["items"]) for item in value]
    if not isinstance(value, dict):
        return value
    properties: dict[str, Any] = schema.get("properties", {})
    filled = {name: child["default"] for name, child in properties.items() if "default" in child} | value
    return {name: with_defaults(item, properties.get(name, {})) for name, item in filled.items()}


def test_defaults_of_the_crd_are_those_of_the_model() -> None:
    for model, crd, written in (
        (ProxyModeSpec, proxymodes(), {"mode": "nftables"}),
        (ProxyModeSpec, proxymodes(), {"mode": "ipvs", "rollout": {"stages": [{"name": "a", "selector": {}}]}}),
        (NodeProxyModeSpec, nodeproxymodes(), {}),
    ):
        filled = with_defaults(written, schema_of(crd)["properties"]["spec"])
        assert model.model_validate(filled) == model.model_validate(written)
        # Nothing is left for a reader to fill in but what may be absent or is empty.
        missing = {
            name
            for name, value in model.model_validate(written).wire().items()
            if name not in filled and value not in ("", [], {}, 0)
        }
        assert missing <= {"nodeSelector"}


def test_every_model_with_a_rule_brings_it_into_the_crd() -> None:
    stated = {
        rule.holds
        for value in vars(rules).values()
        for rule in ([value] if isinstance(value, rules.Rule) else value if isinstance(value, tuple) else [])
        if isinstance(rule, rules.Rule)
    }
    carried = {
        rule["rule"]
        for crd in (proxymodes(), nodeproxymodes())
        for _, node in nodes_of(schema_of(crd))
        for rule in node.get(rules.KEY, ())
    }
    assert stated == carried


def test_no_name_means_two_things_to_kubectl() -> None:
    """It expands a category before it looks for a resource, so that a category named like a kind hides the kind."""
    names = [crd["spec"]["names"] for crd in (proxymodes(), nodeproxymodes())]
    of_kinds = [name for entry in names for name in (entry["singular"], entry["plural"], *entry["shortNames"])]
    assert len(of_kinds) == len(set(of_kinds))
    assert not set(of_kinds) & BUILT_IN_SHORT_NAMES
    assert not set(of_kinds) & {category for entry in names for category in entry["categories"]}


def test_columns_are_those_that_people_read() -> None:
    def columns(crd: dict[str, Any]) -> str:
        listed = crd["spec"]["versions"][0]["additionalPrinterColumns"]
        return " ".join(column["name"].upper() for column in listed if not column.get("priority"))

    assert columns(proxymodes()) == "MODE STAGE UPDATED READY SWITCHING BLOCKED STATUS AGE"
    assert columns(nodeproxymodes()) == "MODE DESIRED STAGE PHASE READY CONNECTIONS-KEPT LOST DEPRECATED AGE"


@BOTH
def test_columns_and_selectable_fields_point_at_fields(crd: dict[str, Any]) -> None:
    version = crd["spec"]["versions"][0]
    known = {path for path, _ in nodes_of(schema_of(crd))} | {".metadata.creationTimestamp"}
    paths = [entry["jsonPath"] for entry in version["additionalPrinterColumns"] + version["selectableFields"]]
    for path in paths:
        assert re.sub(r"\[\?\(.*\)\]", "[]", path) in known


def test_json_schema_without_a_structural_form_is_refused_by_its_place() -> None:
    class Above(BaseModel):
        level: int = Field(gt=0, description="exclusiveMinimum is not structural in the way that Kubernetes wants.")

    class Either(BaseModel):
        what: int | list[str] = Field(description="A union.")

    with pytest.raises(ValueError, match=r"Above\.level: exclusiveMinimum has no place"):
        structural(Above, defaults=True)
    with pytest.raises(ValueError, match=r"Either\.what: of unions only"):
        structural(Either, defaults=True)


def test_the_policy_warns_of_every_retired_mode_with_the_dates_of_the_table() -> None:
    text = files()[Path("manifests/base/policies/deprecated-mode.yaml")]
    policy, binding = yaml.safe_load_all(text)
    (validation,) = policy["spec"]["validations"]
    assert validation["expression"] == f"object.spec.mode != '{Mode.IPVS.value}'"
    assert "deprecated since 1.35, off by default from 1.40, removed in 1.43 (KEP-5495)" in validation["message"]
    assert binding["spec"] == {"policyName": policy["metadata"]["name"], "validationActions": ["Warn"]}


DURATION_IN_CEL = re.compile(re.search(r"matches\('(.*)'\)", rules.DURATION.holds)[1])  # type: ignore[index]


@given(st.from_regex(r"\A[0-9hms \-+.]{0,12}\Z") | st.from_regex(r"\A([0-9]{1,7}h)?([0-9]{1,7}m)?([0-9]{1,7}s)?\Z"))
def test_the_api_server_and_the_operator_read_the_same_durations(text: str) -> None:
    try:
        accepted = parse_duration(text).total_seconds() >= 0
    except ValueError:
        accepted = False
    assert accepted == (text != "" and DURATION_IN_CEL.search(text) is not None)


def test_durations_say_what_would_be_right() -> None:
    assert parse_duration("1h30m5s").total_seconds() == 5405
    assert parse_duration("0").total_seconds() == 0
    for text in ("-5m", "5 minutes", "1d", "m", "1m1h", "", "9999999h"):
        with pytest.raises(ValueError, match="write hours, minutes and seconds as in 1h30m, 10m, 45s or 0"):
            parse_duration(text)
