"""Wrong input is refused by the API server itself, in words that name the field, the value and what would be right."""

from __future__ import annotations

import copy
import json
from typing import TYPE_CHECKING, Any

import pytest

from proxymode_testbeds.apiserver import KubectlError

if TYPE_CHECKING:
    from proxymode_testbeds.apiserver import ApiServer

pytestmark = pytest.mark.api

EVERYBODY = {"name": "everybody", "percent": 100}


def stages(*listed: dict[str, Any]) -> dict[str, Any]:
    return {"rollout": {"stages": list(listed)}}


def window(**fields: str | None) -> dict[str, Any]:
    return {"rollout": {"windows": [{"schedule": "0 22 * * *", "duration": "4h"} | fields]}}


def selector(key: str, operator: str, *values: str) -> dict[str, Any]:
    return {"matchExpressions": [{"key": key, "operator": operator, "values": list(values)}]}


def gates(*listed: dict[str, Any]) -> dict[str, Any]:
    return {"rollout": {"gates": list(listed)}}


def prometheus(**fields: Any) -> dict[str, Any]:
    target = {"url": "https://prometheus:9090", "query": "up", "threshold": {"operator": ">=", "value": "1"}}
    return {"name": "up", "prometheus": target | fields}


REFUSED: dict[str, tuple[dict[str, Any], str, str]] = {
    "unknown mode": (
        {"mode": "iptables"},
        "spec.mode",
        'Unsupported value: "iptables": supported values: "ipvs", "nftables"',
    ),
    "back to kube-proxy from ipvs": (
        {"mode": "ipvs", "kubeProxy": {"policy": "HandBack"}},
        "spec",
        "kubeProxy.policy HandBack needs mode nftables: nodes pass through it on their way back to kube-proxy",
    ),
    "unknown kube-proxy policy": (
        {"kubeProxy": {"policy": "Remove"}},
        "spec.kubeProxy.policy",
        'Unsupported value: "Remove": supported values: "Ignore", "TakeOver", "HandBack"',
    ),
    "a namespace that is none": (
        {"kubeProxy": {"namespace": "Kube_System"}},
        "spec.kubeProxy.namespace",
        "should match",
    ),
    "no mode": ({"mode": None}, "spec.mode", "Required value"),
    "percent over 100": (
        stages({"name": "a", "percent": 150}),
        "spec.rollout.stages[0].percent",
        "Invalid value: 150: spec.rollout.stages[0].percent in body should be less than or equal to 100",
    ),
    "percent 0": (stages({"name": "a", "percent": 0}, EVERYBODY), "stages[0].percent", "greater than or equal to 1"),
    "negative soak": (
        stages(EVERYBODY | {"soak": "-5m"}),
        "spec.rollout.stages[0].soak",
        '"-5m" is not a duration: write hours, minutes and seconds as in 1h30m, 10m or 45s; not negative',
    ),
    "soak in days": (stages(EVERYBODY | {"soak": "1d"}), "stages[0].soak", '"1d" is not a duration: write hours'),
    "soak with a fraction": (stages(EVERYBODY | {"soak": "1.5h"}), "stages[0].soak", '"1.5h" is not a duration'),
    "empty soak": (stages(EVERYBODY | {"soak": ""}), "stages[0].soak", '"" is not a duration: write hours'),
    "soak as a number": (stages(EVERYBODY | {"soak": 30}), "stages[0].soak", "must be of type string"),
    "deadline of no time": (
        {"rollout": {"progressDeadline": "0s"}},
        "spec.rollout.progressDeadline",
        '"0s" is no time at all: write more than 0, as in 10m',
    ),
    "the same percent twice": (
        stages({"name": "a", "percent": 100, "approval": "Manual"}, EVERYBODY),
        "spec.rollout.stages",
        "stages are cumulative: two of the same percent are one; give each a percent of its own",
    ),
    "the same count twice": (
        stages({"name": "a", "count": 2}, {"name": "b", "count": 2}, EVERYBODY),
        "spec.rollout.stages",
        "stages are cumulative: two of the same count are one; give each a count of its own",
    ),
    "one domain at a time, of what": (
        {"rollout": {"topologyPolicy": "OneDomain"}},
        "spec.rollout",
        "topologyPolicy OneDomain needs topologyKey: the node label that tells domains apart",
    ),
    "a gate that asks nobody": (gates({"name": "g"}), "gates[0]", "gate g needs exactly one of prometheus and webhook"),
    "two gates of a name": (gates(prometheus(), prometheus()), "spec.rollout.gates[1]", "Duplicate value"),
    "a gate's address without scheme": (
        gates(prometheus(url="prometheus:9090")),
        "gates[0].prometheus.url",
        '"prometheus:9090" is not the address of an HTTP server: write it as in https://prometheus.monitoring.svc:9090',
    ),
    "a password in a gate's address": (
        gates(prometheus(url="https://user:secret@prometheus")),
        "gates[0].prometheus.url",
        "without user, query and fragment",
    ),
    "a token in clear text": (
        gates(prometheus(url="http://prometheus:9090", bearerTokenSecret={"key": "token"})),
        "gates[0].prometheus",
        "bearerTokenSecret would be sent in clear text to http://prometheus:9090: use https or leave it out",
    ),
    "a threshold that is no number": (
        gates(prometheus(threshold={"operator": "<", "value": "1e3"})),
        "gates[0].prometheus.threshold.value",
        "should match",
    ),
    "a comparison that does not exist": (
        gates(prometheus(threshold={"operator": "==", "value": "1"})),
        "gates[0].prometheus.threshold.operator",
        'Unsupported value: "=="',
    ),
    "a gate that may hang for an hour": (
        gates(prometheus() | {"timeout": "1h"}),
        "gates[0].timeout",
        '"1h" is more than five minutes: write at most 5m',
    ),
    "an interval of no time": (gates(prometheus() | {"interval": "0"}), "gates[0].interval", "is no time at all"),
    "schedule of four fields": (
        window(schedule="0 22 * *"),
        "spec.rollout.windows[0].schedule",
        '"0 22 * *" is not a cron schedule: write minute, hour, day, month and weekday, as in 0 22 * * mon-fri',
    ),
    "window of no time": (window(duration="0"), "windows[0].duration", '"0" is no time at all'),
    "window of more than a week": (
        window(duration="168h1s"),
        "windows[0].duration",
        '"168h1s" is more than a week: write at most 168h',
    ),
    "window of no duration at all": (window(duration=None), "windows[0].duration", "Required value"),
    "time zone with a blank": (window(timeZone="Europe / Berlin"), "windows[0].timeZone", "should match"),
    "stages of the same name": (
        stages({"name": "a", "percent": 10}, {"name": "b", "percent": 20}, {"name": "a", "percent": 100}),
        "spec.rollout.stages",
        "each stage needs a name of its own",
    ),
    "stage name in capitals": (stages(EVERYBODY | {"name": "Canary"}), "stages[0].name", "should match"),
    "stage of no reach": (
        stages({"name": "a"}, EVERYBODY),
        "spec.rollout.stages[0]",
        "stage a needs exactly one of selector, count and percent",
    ),
    "stage of two reaches": (
        stages({"name": "a", "count": 1, "percent": 10}, EVERYBODY),
        "spec.rollout.stages[0]",
        "stage a needs exactly one of selector, count and percent",
    ),
    "last stage short of everybody": (
        stages({"name": "a", "percent": 50}, {"name": "b", "percent": 99}),
        "spec.rollout.stages",
        "the last stage, b, must reach every selected node: give it percent: 100 or an empty selector, "
        "or add such a stage after it",
    ),
    "last stage by count": (stages({"name": "a", "count": 5}), "spec.rollout.stages", "the last stage, a, must reach"),
    "last stage by labels": (
        stages({"name": "a", "selector": {"matchLabels": {"zone": "a"}}}),
        "spec.rollout.stages",
        "the last stage, a, must reach every selected node",
    ),
    "no stages": ({"rollout": {"stages": []}}, "spec.rollout.stages", "should have at least 1 items"),
    "percent going back": (
        stages({"name": "a", "percent": 50}, {"name": "b", "percent": 10}, EVERYBODY),
        "spec.rollout.stages",
        "stages are cumulative: percent must be at least that of the stages before",
    ),
    "count going back": (
        stages({"name": "a", "count": 5}, {"name": "b", "count": 2}, EVERYBODY),
        "spec.rollout.stages",
        "stages are cumulative: count must be at least that of the stages before",
    ),
    "In without values": (
        {"nodeSelector": selector("zone", "In")},
        "spec.nodeSelector.matchExpressions[0]",
        "operator In on label zone needs at least one of values",
    ),
    "Exists with values": (
        {"nodeSelector": selector("zone", "Exists", "a")},
        "spec.nodeSelector.matchExpressions[0]",
        "operator Exists on label zone takes no values: leave them out or use In or NotIn",
    ),
    "label value with a space": (
        {"nodeSelector": {"matchLabels": {"zone": "a b"}}},
        "spec.nodeSelector.matchLabels.zone",
        "should match",
    ),
    "maxUnavailable 0": (
        {"rollout": {"maxUnavailable": 0}},
        "spec.rollout.maxUnavailable",
        '"0" is neither a number of nodes from 1 nor a percentage from 1% to 100%; to hold a rollout set paused: true',
    ),
    "maxUnavailable 101%": (
        {"rollout": {"maxUnavailable": "101%"}},
        "spec.rollout.maxUnavailable",
        '"101%" is neither a number of nodes from 1 nor a percentage',
    ),
    "maxUnavailable in words": ({"rollout": {"maxUnavailable": "half"}}, "maxUnavailable", '"half" is neither'),
    "no interface for the bridge": (
        {"detectLocal": {"mode": "BridgeInterface"}},
        "spec.detectLocal",
        "mode BridgeInterface needs interface: the name of the bridge, as in cni0",
    ),
    "no interface prefix": (
        {"detectLocal": {"mode": "InterfaceNamePrefix"}},
        "spec.detectLocal",
        "mode InterfaceNamePrefix needs interface: the beginning of the names, as in veth",
    ),
    "interface that is ignored": (
        {"detectLocal": {"interface": "cni0"}},
        "spec.detectLocal",
        "interface cni0 would be ignored in mode ClusterCIDR: leave it out, or choose mode InterfaceNamePrefix",
    ),
    "CIDRs that are ignored": (
        {"detectLocal": {"mode": "NodeCIDR", "clusterCIDRs": ["10.0.0.0/8"]}},
        "spec.detectLocal",
        "clusterCIDRs would be ignored in mode NodeCIDR: leave them out, or choose mode ClusterCIDR",
    ),
    "CIDR without a length": (
        {"detectLocal": {"clusterCIDRs": ["fd00::/64", "10.244.0.0"]}},
        "spec.detectLocal.clusterCIDRs[1]",
        '"10.244.0.0" is not a CIDR: write one as in 10.244.0.0/16 or fd00:10::/64',
    ),
    "CIDR too long": ({"ipvs": {"excludeCIDRs": ["10.0.0.0/33"]}}, "excludeCIDRs[0]", '"10.0.0.0/33" is not a CIDR'),
    "NodePort addresses in words": (
        {"nodePortAddresses": ["all", "10.0.0.0/8"]},
        "spec.nodePortAddresses",
        '"all" must not stand here: NodePorts answer on CIDRs as in 192.168.0.0/16, or on the one word primary',
    ),
    "primary beside CIDRs": (
        {"nodePortAddresses": ["primary", "10.0.0.0/8"]},
        "spec.nodePortAddresses",
        '"primary" must not stand here: NodePorts answer on CIDRs',
    ),
    "unknown scheduler": ({"ipvs": {"scheduler": "random"}}, "spec.ipvs.scheduler", 'supported values: "rr", "wrr"'),
    "timeout of IPVS in milliseconds": ({"ipvs": {"timeouts": {"tcpFin": "500ms"}}}, "tcpFin", "is not a duration"),
    "negative drain timeout of IPVS": (
        {"ipvs": {"drainTimeout": "-5m"}},
        "spec.ipvs.drainTimeout",
        "is not a duration",
    ),
    "mark bit past the mark": ({"nftables": {"masqueradeBit": 32}}, "masqueradeBit", "less than or equal to 31"),
}


def proxy_mode(spec: dict[str, Any], name: str = "refused") -> str:
    """The ProxyMode as kubectl reads it; a None in the spec takes the field away."""
    whole = {key: value for key, value in ({"mode": "nftables"} | copy.deepcopy(spec)).items() if value is not None}
    return json.dumps(
        {"apiVersion": "proxymode.io/v1alpha1", "kind": "ProxyMode", "metadata": {"name": name}, "spec": whole}
    )


async def created(api: ApiServer, spec: dict[str, Any], name: str = "refused") -> None:
    await api.kubectl("create", "--filename=-", "--dry-run=server", stdin=proxy_mode(spec, name))


@pytest.mark.parametrize("case", REFUSED)
async def test_refused(crds: ApiServer, case: str) -> None:
    spec, field, words = REFUSED[case]
    with pytest.raises(KubectlError) as refused:
        await created(crds, spec)
    assert field in str(refused.value)
    assert words in str(refused.value)


async def test_a_name_too_long_for_a_label(crds: ApiServer) -> None:
    await created(crds, {}, "x" * 63)
    with pytest.raises(KubectlError, match=r"metadata\.name must have at most 63 characters"):
        await created(crds, {}, "x" * 64)


async def test_a_misspelt_field_is_named(crds: ApiServer) -> None:
    with pytest.raises(KubectlError, match=r'unknown field "spec\.rolout"'):
        await created(crds, {"rolout": {}})


ACCEPTED: dict[str, dict[str, Any]] = {
    "only a mode": {},
    "the other mode": {"mode": "ipvs"},
    "last stage with an empty selector": stages({"name": "a", "count": 1}, {"name": "b", "selector": {}}),
    "a Prometheus over TLS with a token, and a webhook": gates(
        prometheus(ca="-----BEGIN CERTIFICATE-----", bearerTokenSecret={"key": "token"}),
        {"name": "judge", "webhook": {"url": "http://[fd00::1]:8080/judge"}, "timeout": "5m", "when": "DuringSoak"},
    ),
    "as many gates as there may be": gates(*(prometheus() | {"name": f"g{n}"} for n in range(16))),
    "one domain at a time": {"rollout": {"topologyKey": "zone", "topologyPolicy": "OneDomain"}},
    "counts, percents and selectors mixed": stages(
        {"name": "a", "count": 3, "soak": "1h30m5s"},
        {"name": "b", "selector": selector("zone", "NotIn", "a", "")},
        {"name": "c", "percent": 1, "soak": "0"},
        EVERYBODY,
    ),
    "maxUnavailable as a number": {"rollout": {"maxUnavailable": 12}},
    "maxUnavailable as a percentage": {"rollout": {"maxUnavailable": "100%"}},
    "dual stack": {"detectLocal": {"clusterCIDRs": ["10.244.0.0/16", "fd00:10:244::/56"]}},
    "a bridge": {"detectLocal": {"mode": "BridgeInterface", "interface": "cni0"}},
    "NodePorts on the primary address": {"nodePortAddresses": ["primary"]},
    "NodePorts on two networks": {"nodePortAddresses": ["192.168.0.0/16", "::/0"]},
    "as many stages as there may be": stages(
        *({"name": f"s{n}", "percent": n + 1} for n in range(31)), {"name": "s31", "percent": 100}
    ),
}


@pytest.mark.parametrize("case", ACCEPTED)
async def test_accepted(crds: ApiServer, case: str) -> None:
    await created(crds, ACCEPTED[case])
