"""What the manifests allow our ServiceAccounts, to compare with what they ask the API server for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from .audit import Right

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .audit import Request

NAMESPACE = "proxymode-system"
MANIFESTS = Path(__file__).parents[3] / "manifests"


def service_account(component: str) -> str:
    """The user name of `operator` or `agent`."""
    return f"system:serviceaccount:{NAMESPACE}:proxymode-{component}"


def granted(component: str) -> set[Right]:
    """Every right of a component's ServiceAccount. Ones that are bound to names are given without the names."""
    files = sorted(MANIFESTS.glob("base/*/*.yaml"))
    documents = [document for file in files for document in yaml.safe_load_all(file.read_text()) if document]
    objects = [document for document in documents if document["apiVersion"].startswith("rbac.authorization.k8s.io/")]
    subject = {"kind": "ServiceAccount", "name": f"proxymode-{component}", "namespace": NAMESPACE}
    bound = [document["roleRef"] for document in objects if subject in document.get("subjects", ())]
    return {
        Right(verb, group, resource, role["metadata"].get("namespace", ""))
        for role in objects
        if {"kind": role["kind"], "name": role["metadata"]["name"], "apiGroup": "rbac.authorization.k8s.io"} in bound
        for rule in role["rules"]
        for verb in rule["verbs"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }


def used(component: str, requests: Iterable[Request]) -> set[Right]:
    """The rights that a component's requests took, as its roles have them. Raises AssertionError if one was refused,
    for want of a right or for what was in it."""
    mine = [request for request in requests if request.user == service_account(component)]
    refused = [request for request in mine if not (request.allowed and request.valid)]
    assert not refused, f"{component} was refused: {refused}"
    # What a ClusterRole allows, it allows in every namespace.
    everywhere = {right for right in granted(component) if not right.namespace}
    return {
        right if (right := request.right._replace(namespace="")) in everywhere else request.right for request in mine
    }
