"""Objects as the API server stores them, to the planner's values and back."""

from __future__ import annotations

import dataclasses
import json
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Any

import msgspec
import pytest

from proxymode_api.annotations import SKIP_ANNOTATION
from proxymode_api.common import Condition, DataplaneOptions, Mode, Model
from proxymode_api.nodeproxymode import LastSwitch, NodeProxyModeStatus, Preflight, PreflightResult
from proxymode_api.proxymode import ProxyMode
from proxymode_operator import objects
from proxymode_operator.objects import Unreadable
from proxymode_operator.rollout.model import TURN_ANNOTATION, Intent, Template, Turn, Write, WriteKind
from proxymode_operator.shapes import ConditionShape, PreflightShape, ResultShape, StatusShape, SwitchShape, read

NOW = datetime(2026, 11, 21, 4, 5, 6, tzinfo=UTC)


def stored(write: Write, **meta: Any) -> dict[str, Any]:
    """The body of a write as the API server would give it back."""
    body = objects.node_proxy_mode_body(write)
    return body | {"metadata": {"uid": "u", "resourceVersion": "5", "generation": 1} | body["metadata"] | meta}


def write(intent: Intent, **more: Any) -> Write:
    base = more.get("base")
    return Write(node="n1", node_uid="node-uid", kind=WriteKind.TURN, intent=intent, base=base)


def test_an_intent_comes_back_as_it_was_written() -> None:
    intent = Intent(
        mode=Mode.NFTABLES,
        target_mode=Mode.NFTABLES,
        options=DataplaneOptions(masquerade_all=True, node_port_addresses=["primary"]),
        proxy_mode="fleet",
        revision=4,
        turn=Turn(at=NOW, generation=7, before_mode=Mode.IPVS, before_options=DataplaneOptions(masquerade_all=True)),
    )
    found = objects.node_proxy_mode(stored(write(intent)))
    assert found.asked is not None
    assert found.asked.intent == intent
    assert found.owner_uid == "node-uid"
    assert found.report is None


def test_a_write_carries_the_version_that_it_rests_on_and_a_creation_none() -> None:
    created = stored(write(Intent()))
    assert "resourceVersion" not in objects.node_proxy_mode_body(write(Intent()))["metadata"]
    base = objects.node_proxy_mode(created).asked
    meta = objects.node_proxy_mode_body(write(Intent(mode=Mode.IPVS), base=base))["metadata"]
    assert (meta["uid"], meta["resourceVersion"]) == ("u", "5")


def test_a_retried_turn_and_its_attempt_come_back_as_they_were_written() -> None:
    intent = Intent(mode=Mode.NFTABLES, attempt=2, turn=Turn(at=NOW, retried_at=NOW + timedelta(hours=1), generation=7))
    found = objects.node_proxy_mode(stored(write(intent)))
    assert found.asked is not None
    assert found.asked.intent == intent


@pytest.mark.parametrize(
    ("annotations", "skip"),
    [
        ({}, ""),
        ({SKIP_ANNOTATION: "broken NIC"}, "broken NIC"),
        ({SKIP_ANNOTATION: " two\nlines "}, "two lines"),
        ({SKIP_ANNOTATION: ""}, "no reason given"),
        ({SKIP_ANNOTATION: "x" * 300}, "x" * 200),
    ],
)
def test_the_reason_to_skip_a_node_is_one_short_line(annotations: dict[str, str], skip: str) -> None:
    found = objects.node_proxy_mode(stored(write(Intent()), annotations=annotations))
    assert found.asked is not None
    assert found.asked.skip == skip


def test_a_turn_that_somebody_made_unreadable_is_no_turn() -> None:
    raw = stored(write(Intent(mode=Mode.IPVS)), annotations={TURN_ANNOTATION: "{"})
    found = objects.node_proxy_mode(raw)
    assert found.asked is not None
    assert found.asked.intent.turn is None
    assert found.asked.turn_generation == 1


def status(**more: Any) -> dict[str, Any]:
    ready = {
        "type": "Ready",
        "status": "True",
        "reason": "Programmed",
        "message": "",
        "lastTransitionTime": "2026-11-21T01:00:00Z",
    }
    base = {
        "observedGeneration": 3,
        "mode": "kube-proxy-ipvs",
        "phase": "Active",
        "heartbeatTime": "2026-11-21T04:00:00Z",
        "conditions": [ready],
    }
    return base | more


def reported(**more: Any) -> Any:
    raw = stored(write(Intent()))
    return objects.node_proxy_mode(raw | {"status": status(**more)}).report


def test_a_report_is_what_the_agent_wrote() -> None:
    found = reported()
    assert (found.observed_generation, found.mode, found.ready) == (3, "kube-proxy-ipvs", True)
    assert found.ready_since == datetime(2026, 11, 21, 1, tzinfo=UTC)
    assert found.preflight_mode is None


def test_ready_counts_from_the_end_of_the_switch_when_it_stayed_true_throughout() -> None:
    switch = {
        "fromMode": "ipvs",
        "toMode": "nftables",
        "startedAt": "2026-11-21T03:00:00Z",
        "completedAt": "2026-11-21T03:00:02.7Z",
        "outcome": "Succeeded",
    }
    assert reported(lastSwitch=switch).ready_since == datetime(2026, 11, 21, 3, 0, 2, tzinfo=UTC)


def test_blocks_are_named_and_a_condition_without_results_blocks_too() -> None:
    checks = [
        {"id": "kernel-version", "verdict": "block", "found": "5.4"},
        {"id": "conntrack-headroom", "verdict": "warn", "found": "80 %"},
    ]
    preflight = {"mode": "nftables", "checkedAt": "2026-11-21T03:00:00Z", "results": checks}
    found = reported(preflight=preflight)
    assert (found.preflight_mode, found.blockers) == (Mode.NFTABLES, ("kernel-version",))
    failed = {
        "type": "PreflightPassed",
        "status": "False",
        "reason": "Blocked",
        "message": "",
        "lastTransitionTime": "2026-11-21T01:00:00Z",
    }
    assert reported(preflight=preflight | {"results": []}, conditions=[failed]).blockers == ("Blocked",)


@pytest.mark.parametrize(
    ("switch", "seconds"),
    [
        ({"outcome": "Succeeded", "completedAt": "2026-11-21T03:00:12Z"}, 12.0),
        ({"outcome": "RolledBack", "completedAt": "2026-11-21T03:00:12Z"}, None),
        ({}, None),
    ],
)
def test_what_a_switch_took_counts_once_it_has_succeeded(switch: dict[str, str], seconds: float | None) -> None:
    began = {"fromMode": "ipvs", "toMode": "nftables", "startedAt": "2026-11-21T03:00:00Z"}
    assert reported(lastSwitch=began | switch).switch_seconds == seconds
    assert reported().switch_seconds is None


def test_a_status_of_another_time_is_no_report() -> None:
    assert reported(phase="Levitating") is None


def test_what_is_read_of_a_status_is_what_the_api_says_it_is() -> None:
    """The shape names some of the API's fields; each must be there, by its name on the wire and with its default."""
    pairs: list[tuple[type[msgspec.Struct], type[Model]]] = [
        (StatusShape, NodeProxyModeStatus),
        (PreflightShape, Preflight),
        (ResultShape, PreflightResult),
        (SwitchShape, LastSwitch),
        (ConditionShape, Condition),
    ]
    for shape, model in pairs:
        required = {name for name, field in model.model_fields.items() if field.is_required()}
        filled = {
            str(model.model_fields[name].alias): _example(model.model_fields[name].annotation) for name in required
        }
        ours, theirs = read(shape, filled), model.model_validate(filled)
        for name, on_the_wire in zip(shape.__struct_fields__, shape.__struct_encode_fields__, strict=True):
            assert on_the_wire == model.model_fields[name].alias
            there = getattr(theirs, name)
            assert getattr(ours, name) == (tuple(there) if isinstance(there, list) else there), name


def _example(annotation: Any) -> Any:
    """A value of this type, as JSON."""
    if annotation is datetime:
        return "2026-11-21T03:00:00Z"
    return next(iter(annotation)).value if issubclass(annotation, Enum) else "x"


def test_bytes_and_what_others_have_decoded_say_the_same() -> None:
    raw = stored(write(Intent(mode=Mode.IPVS))) | {"status": status()}
    data = msgspec.Raw(json.dumps(raw).encode())
    assert objects.node_proxy_mode(data) == objects.node_proxy_mode(raw)
    machine = {
        "metadata": {"name": "n1", "uid": "u", "labels": {"zone": "a"}, "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {"unschedulable": True},
        "status": {"conditions": [{"type": "Ready", "status": "True"}, {"type": "example.org/Odd", "status": "odd"}]},
    }
    found = objects.node(msgspec.Raw(json.dumps(machine).encode()))
    assert found == objects.node(machine)
    assert (found.ready, found.cordoned, found.labels) == (True, True, {"zone": "a"})


def test_a_proxy_mode_that_cannot_be_read_says_where() -> None:
    raw = {"metadata": {"name": "fleet", "uid": "u"}, "spec": {"mode": "ebpf"}}
    found = objects.proxy_mode(raw)
    assert isinstance(found, Unreadable)
    assert "spec.mode" in found.error


def test_the_hash_of_a_template_is_that_of_what_was_chosen() -> None:
    """A default that is written out is the same template, so that a newer operator with more options starts nothing."""
    plain = Template(Mode.NFTABLES, DataplaneOptions())
    written_out = Template(Mode.NFTABLES, DataplaneOptions.model_validate({"masqueradeAll": False, "ipvs": {}}))
    assert plain.hash == written_out.hash
    assert dataclasses.replace(plain, mode=Mode.IPVS).hash != plain.hash
    assert Template(Mode.NFTABLES, DataplaneOptions(masquerade_all=True)).hash != plain.hash


def test_a_status_is_applied_to_the_version_that_it_was_computed_from() -> None:
    raw = {"metadata": {"name": "fleet", "uid": "u", "resourceVersion": "8"}, "spec": {"mode": "ipvs"}}
    proxy_mode = objects.proxy_mode(raw)
    assert isinstance(proxy_mode, ProxyMode)
    body = objects.status_body(proxy_mode, proxy_mode.status)
    assert body["metadata"] == {"name": "fleet", "uid": "u", "resourceVersion": "8"}


def test_a_heartbeat_does_not_read_the_spec_anew_and_any_change_does() -> None:
    raw = stored(write(Intent(mode=Mode.IPVS)))
    first = objects.node_proxy_mode(raw)
    assert first.asked is not None
    later = raw | {"metadata": raw["metadata"] | {"resourceVersion": "77"}}
    again = objects.node_proxy_mode(later, first)
    assert again.asked is not None
    assert again.asked.intent is first.asked.intent
    assert again == objects.node_proxy_mode(later), "as if read anew"
    for change in ({"generation": 9}, {"uid": "another"}, {"annotations": {"proxymode.io/skip": "broken NIC"}}):
        changed = raw | {"metadata": raw["metadata"] | change}
        assert objects.node_proxy_mode(changed, first) == objects.node_proxy_mode(changed)
    edited = raw | {"metadata": raw["metadata"] | {"generation": 9}, "spec": raw["spec"] | {"mode": "nftables"}}
    found = objects.node_proxy_mode(edited, first).asked
    assert found is not None
    assert found.intent.mode is Mode.NFTABLES
