"""A case's Services and the pods behind them as API objects: the JSON that an API server would send. Pure.

Services are written out by who writes a case; of EndpointSlices only what matters is written (`endpoints`), the rest
is what the endpoint slice controller would write: one slice a family, the Service's name as label, node names.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from packet_table import FAMILIES

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

NAMESPACE: Final = "default"


class Place(NamedTuple):
    """Where an endpoint is: its node if it has one, and its address by family."""

    node: str | None
    addresses: Mapping[str, str]


class ApiObject(NamedTuple):
    """An object's identity and its JSON."""

    kind: str
    name: str
    json: bytes


def objects(services: Mapping[str, Mapping[str, Any]], pods: Mapping[str, Place]) -> Iterator[ApiObject]:
    """The Services and their EndpointSlices. `services` is the table's, see cases/; raises KeyError for a pod that is
    not there."""
    for name, service in services.items():
        metadata = {"name": name, "namespace": NAMESPACE, "labels": service.get("labels", {})}
        ports = [{"protocol": "TCP"} | port for port in service["spec"].get("ports", [])]
        spec = {"type": "ClusterIP", **service["spec"], "ports": ports}
        if "clusterIP" not in spec:
            spec["clusterIP"] = spec["clusterIPs"][0]
        body = {"metadata": metadata, "spec": spec, "status": service.get("status", {})}
        yield ApiObject("Service", name, _json("v1", "Service", body))
        for index, group in enumerate(service.get("endpoints", [])):
            for family in group.get("families", FAMILIES):
                slice_name = f"{name}-{index}-{family.lower()}"
                body = {
                    "metadata": {
                        "name": slice_name,
                        "namespace": NAMESPACE,
                        "labels": {"kubernetes.io/service-name": name},
                    },
                    "addressType": family,
                    "ports": [_port(port, number) for port, number in group["ports"].items()],
                    "endpoints": [_endpoint(pod, pods, family) for pod in group["pods"]],
                }
                yield ApiObject("EndpointSlice", slice_name, _json("discovery.k8s.io/v1", "EndpointSlice", body))


def _json(version: str, kind: str, body: Mapping[str, Any]) -> bytes:
    return json.dumps({"apiVersion": version, "kind": kind, **body}).encode()


def _port(name: str, number: int | str) -> dict[str, Any]:
    target, _, protocol = str(number).partition("/")
    return {"name": name, "port": int(target), "protocol": protocol.upper() or "TCP"}


def _endpoint(entry: str | Mapping[str, Any], pods: Mapping[str, Place], family: str) -> dict[str, Any]:
    given = {"pod": entry} if isinstance(entry, str) else entry
    place = pods[given["pod"]]
    conditions = given.get("conditions", {"ready": True, "serving": True, "terminating": False})
    endpoint: dict[str, Any] = {
        "addresses": [given.get("address", place.addresses[family])],
        "conditions": conditions,
        "targetRef": {"kind": "Pod", "namespace": NAMESPACE, "name": given["pod"]},
    }
    if (node := given.get("node", place.node)) is not None:
        endpoint["nodeName"] = node
    if "zone" in given:
        endpoint["zone"] = given["zone"]
    hints = {field: [{"name": one} for one in given[field]] for field in ("forZones", "forNodes") if field in given}
    if hints:
        endpoint["hints"] = hints
    return endpoint
