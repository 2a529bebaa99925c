"""What the API server was asked by ServiceAccounts, by its own audit log: which rights are used, which are missing.

Administrators and people are left out: they may do everything here, so what they do says nothing.
"""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from pathlib import Path

POLICY = """\
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
  - {level: Metadata, userGroups: ["system:serviceaccounts"]}
  - {level: None}
"""


_INVALID = (
    HTTPStatus.BAD_REQUEST,
    HTTPStatus.METHOD_NOT_ALLOWED,
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    HTTPStatus.UNPROCESSABLE_ENTITY,
)


class Right(NamedTuple):
    """One thing that RBAC can allow. `resource` with its subresource, as roles name it: `proxymodes/status`.

    `namespace` is empty for cluster-scoped objects and for requests about all namespaces.
    """

    verb: str
    group: str
    resource: str
    namespace: str = ""


class Request(NamedTuple):
    """A request about objects. `name` is empty where the path has none: create, list, watch.

    `allowed` is about RBAC and admission: the answer was not 403. `valid` is about what was sent: the answer was none
    that says it can never be taken.
    """

    user: str
    right: Right
    name: str
    allowed: bool
    valid: bool


def read(log: Path) -> list[Request]:
    """Every request about objects, in the order in which the answers began; a watch that is still open counts.

    A server-side apply that made its object needed the right to create too, and counts as both.
    """
    found: list[Request] = []
    for line in log.read_text().splitlines() if log.exists() else ():
        event = json.loads(line)
        about = event.get("objectRef")
        if about is None or "resource" not in about:
            continue
        resource = "/".join(part for part in (about["resource"], about.get("subresource")) if part)
        right = Right(event["verb"], about.get("apiGroup", ""), resource, about.get("namespace", ""))
        code = event.get("responseStatus", {}).get("code")
        allowed = code != HTTPStatus.FORBIDDEN
        created = right.verb == "patch" and code == HTTPStatus.CREATED
        rights = [right, right._replace(verb="create")] if created else [right]
        user, name = event["user"]["username"], about.get("name", "")
        found += [Request(user, each, name, allowed, code not in _INVALID) for each in rights]
    return found
