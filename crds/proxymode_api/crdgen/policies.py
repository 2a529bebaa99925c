"""The admission policy that warns of a mode that upstream gives up, its dates from the deprecation table. Pure.

Solves: kubectl prints the warning at the moment of the apply, with no webhook to run. The API server does not tell a
policy the cluster's version, so the words give dates and leave the arithmetic to the operator's condition.
"""

from __future__ import annotations

from typing import Any, Final

from proxymode_api import GROUP
from proxymode_api.deprecation import deprecation
from proxymode_api.modes import Mode

NAME: Final = "proxymode-deprecated-mode"


def deprecated_mode() -> list[dict[str, Any]]:
    """The ValidatingAdmissionPolicy and its binding, which only ever warns."""
    validations = [
        {
            "expression": f"object.spec.mode != '{mode.value}'",
            "message": f"spec.mode: {found.message}; "
            f"from {found.retirement.removed} kube-proxy has no {mode.value} mode to go back to",
        }
        for mode in Mode
        if (found := deprecation(mode, None)) is not None
    ]
    policy = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": NAME},
        "spec": {
            # A warning is never worth refusing an object for.
            "failurePolicy": "Ignore",
            "matchConstraints": {
                "resourceRules": [
                    {
                        "apiGroups": [GROUP],
                        "apiVersions": ["*"],
                        "operations": ["CREATE", "UPDATE"],
                        "resources": ["proxymodes"],
                        "scope": "*",
                    }
                ]
            },
            "validations": validations,
        },
    }
    binding = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": {"name": NAME},
        "spec": {"policyName": NAME, "validationActions": ["Warn"]},
    }
    return [policy, binding]
