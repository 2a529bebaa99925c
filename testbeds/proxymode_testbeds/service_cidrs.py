"""ServiceCIDRs on an API server: built in where it is a real one, a stand-in of the same shape on ours."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from proxymode_testbeds.apiserver import ApiServer

_SPEC: Final = {"type": "object", "properties": {"cidrs": {"type": "array", "items": {"type": "string"}}}}
_KIND: Final = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {
        "name": "servicecidrs.networking.k8s.io",
        "annotations": {"api-approved.kubernetes.io": "unapproved, a stand-in for the built-in kind"},
    },
    "spec": {
        "group": "networking.k8s.io",
        "scope": "Cluster",
        "names": {"kind": "ServiceCIDR", "plural": "servicecidrs", "singular": "servicecidr"},
        "versions": [
            {
                "name": "v1",
                "served": True,
                "storage": True,
                "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": _SPEC}}},
            }
        ],
    },
}


async def serve(api: ApiServer) -> None:
    """Return when the server has the kind."""
    if not api.is_real:
        await api.kubectl("apply", "--filename=-", stdin=json.dumps(_KIND))
        await api.served("servicecidrs.networking.k8s.io")


def service_cidr(name: str, *cidrs: str) -> dict[str, Any]:
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "ServiceCIDR",
        "metadata": {"name": name},
        "spec": {"cidrs": list(cidrs)},
    }
