"""Talks to the cluster: lists, and patches of ProxyModes and NodeProxyModes.

Every failure that a user can cause or meet becomes a UserError of one line. Objects are decoded by the API's models;
of Nodes only a few fields are read. It asks anew each time: no cache, no watch, so nothing can drift.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import urlencode

import urllib3
from kubernetes.client.exceptions import ApiException
from pydantic import ValidationError
from urllib3.exceptions import HTTPError

from proxymode_api.common import Model
from proxymode_api.labels import ZONE_LABEL
from proxymode_api.nodeproxymode import NodeProxyMode
from proxymode_api.proxymode import ProxyMode
from proxymode_cli.asking import NODE_PROXY_MODES, NODES, OS_LABEL, PROXY_MODES, choose, labels
from proxymode_cli.errors import ExitCode, NotInstalledError, UserError, one_line
from proxymode_cli.joining import fleet_view
from proxymode_cli.kubeconfig import client
from proxymode_cli.view import FleetView, MachineView

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

FIELD_MANAGER: Final = "kubectl-proxymode"
TIMEOUT: Final = (10.0, 60.0)
"""Seconds to connect, and without a byte."""
PAGE_SIZE: Final = 500
_TRAVEL: Final = timedelta(seconds=5)

M = TypeVar("M", bound=Model)


class Cluster:
    """One cluster, as a kubeconfig's context names it. Its methods raise UserError."""

    def __init__(self, kubeconfig: str | None, context: str | None, *, timeout: tuple[float, float] = TIMEOUT) -> None:
        urllib3.disable_warnings()  # insecure-skip-tls-verify is the user's choice; kubectl does not complain either
        self._client = client(kubeconfig, context)
        self.server = str(self._client.configuration.host)
        self._timeout = timeout
        self._ahead = timedelta()

    def fleet(self, machines: Iterable[MachineView] | None = None) -> FleetView:
        """Everything, now; `machines`: Nodes that were read a moment ago, which cost most."""
        return fleet_view(
            (_decode(ProxyMode, item) for item in self._list(PROXY_MODES)),
            (_decode(NodeProxyMode, item) for item in self._list(NODE_PROXY_MODES)),
            self.machines() if machines is None else machines,
            self.version(),
            self.now(),
        )

    def now(self) -> datetime:
        """By the API server's clock, as of its last answer: by a wrong one of the user's all agents would be silent."""
        return datetime.now(UTC) + self._ahead

    def machines(self) -> list[MachineView]:
        """The cluster's Linux Nodes; none where the user may not list Nodes: NodeProxyModes name the rest."""
        try:
            items = self._list(NODES)
        except _ForbiddenError:
            return []
        return [_machine(item) for item in items if labels(item).get(OS_LABEL, "linux") == "linux"]

    def version(self) -> str:
        """The API server's version, such as v1.36.2."""
        return str(self._request("GET", "/version").get("gitVersion", ""))

    def proxy_mode(self, name: str | None) -> ProxyMode:
        """The ProxyMode called so; without a name the only one there is."""
        found = {str(item["metadata"]["name"]): item for item in self._list(PROXY_MODES)}
        return _decode(ProxyMode, found[choose(name, found)])

    def proxy_mode_if_any(self, name: str | None) -> ProxyMode | None:
        """As `proxy_mode`; without a name None where there is none, or where the cluster does not know the kind."""
        items, _ = self.listed_or_note(PROXY_MODES, "ProxyModes")
        found = {str(item["metadata"]["name"]): item for item in items}
        return None if name is None and not found else _decode(ProxyMode, found[choose(name, found)])

    def node_proxy_modes_if_any(self) -> dict[str, NodeProxyMode]:
        """All of them, by name; none where the cluster does not know the kind."""
        items, _ = self.listed_or_note(NODE_PROXY_MODES, "NodeProxyModes")
        return {str(item["metadata"]["name"]): _decode(NodeProxyMode, item) for item in items}

    def listed_or_note(self, path: str, what: str) -> tuple[list[dict[str, Any]], str]:
        """A list, empty where the cluster does not know the kind; a note where the user may not read it."""
        try:
            return self._list(path), ""
        except _ForbiddenError:
            return [], f"no right to list {what}: what depends on them is not in this report"
        except (_NotFoundError, NotInstalledError):
            return [], ""

    def read_or_note(self, path: str, what: str) -> tuple[dict[str, Any] | None, str]:
        """One object, None where there is none; a note where the user may not read it."""
        try:
            return self._request("GET", path), ""
        except _ForbiddenError:
            return None, f"no right to read {what}: what depends on it is not in this report"
        except _NotFoundError:
            return None, ""

    def proxy_mode_names(self) -> list[str]:
        """Of all ProxyModes."""
        return [str(item["metadata"]["name"]) for item in self._list(PROXY_MODES)]

    def node_names(self) -> list[str]:
        """Of all nodes that have a NodeProxyMode."""
        return [str(item["metadata"]["name"]) for item in self._list(NODE_PROXY_MODES)]

    def patch_proxy_mode(self, name: str, patch: Mapping[str, Any]) -> list[str]:
        """A JSON merge patch (RFC 7396) of the ProxyMode; the warnings that the API server gave."""
        return self._patch(f"{PROXY_MODES}/{name}", patch)

    def node_proxy_modes(self) -> dict[str, NodeProxyMode]:
        """All of them, by name."""
        return {str(i["metadata"]["name"]): _decode(NodeProxyMode, i) for i in self._list(NODE_PROXY_MODES)}

    def patch_node_proxy_mode(self, name: str, patch: Mapping[str, Any]) -> list[str]:
        """A JSON merge patch of the NodeProxyMode; the warnings that the API server gave."""
        return self._patch(f"{NODE_PROXY_MODES}/{name}", patch)

    def _patch(self, path: str, patch: Mapping[str, Any]) -> list[str]:
        response = self._send(
            "PATCH",
            f"{path}?{urlencode({'fieldManager': FIELD_MANAGER})}",
            body=patch,
            content_type="application/merge-patch+json",
        )
        return warnings(response.headers.get("Warning", ""))

    def _list(self, path: str) -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = []
        query = {"limit": str(PAGE_SIZE)}
        while True:
            page = self._request("GET", f"{path}?{urlencode(query)}")
            items += page.get("items") or []
            token = (page.get("metadata") or {}).get("continue")
            if not token:
                return items
            query["continue"] = token

    def _request(self, method: str, path: str) -> dict[str, Any]:
        data = self._send(method, path).read()
        try:
            answer = json.loads(data)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise UserError(f"{self.server} does not answer {path} like an API server", ExitCode.CLUSTER)
        return answer

    def _send(
        self,
        method: str,
        path: str,
        *,
        body: Mapping[str, Any] | None = None,
        content_type: str = "application/json",
    ) -> Any:
        try:
            method, url, headers, content, _ = self._client.param_serialize(
                method,
                path,
                header_params={"Accept": "application/json", "Content-Type": content_type},
                body=body,
                auth_settings=["BearerToken"],
            )
            response: Any = self._client.call_api(method, url, headers, content, _request_timeout=self._timeout)
            self._ahead = ahead(response.headers.get("Date", ""), datetime.now(UTC))
            text = "" if 200 <= response.status < 300 else (response.read() or b"").decode(errors="replace")
        except ApiException as error:
            if not error.status:  # the client's way to say that TLS has failed
                why = " ".join((error.reason or "").removeprefix("SSLError").split())
                raise UserError(f"{self.server} is not trusted: {why}", ExitCode.CLUSTER) from error
            raise _refusal(error.status, error.reason or "", path) from error
        except (HTTPError, OSError) as error:
            raise UserError(f"{self.server} cannot be reached: {one_line(error)}", ExitCode.CLUSTER) from error
        if not 200 <= response.status < 300:
            raise _refusal(response.status, text, path)
        return response


class _ForbiddenError(UserError):
    """403: the user lacks a right."""


class _NotFoundError(UserError):
    """404: no such object, or no such kind."""


def ahead(date: str, now: datetime) -> timedelta:
    """How much the clock of who sent this Date header is ahead of one that says `now`. 0 for what travel and the
    header's whole seconds account for, and where there is none."""
    try:
        found = parsedate_to_datetime(date) - now
    except (TypeError, ValueError):
        return timedelta()
    return found if abs(found) > _TRAVEL else timedelta()


def warnings(header: str) -> list[str]:
    """The texts of a Warning header: `299 - "text"`, several separated by commas (RFC 7234, 5.5)."""
    texts = []
    for part in header.split('299 - "')[1:]:
        quoted = part.rpartition('"')[0]
        texts.append(quoted.replace('\\"', '"').replace("\\\\", "\\"))
    return texts


def _refusal(status: int, body: str, path: str) -> UserError:
    try:
        message = str(json.loads(body).get("message", ""))
    except (ValueError, AttributeError):
        message = body.strip()[:200]
    match status:
        case 401:
            return UserError("the cluster does not accept these credentials (401 Unauthorized)", ExitCode.CLUSTER)
        case 403:
            return _ForbiddenError(f"no right to do this: {message}", ExitCode.CLUSTER)
        case 404 if path.partition("?")[0] in (PROXY_MODES, NODE_PROXY_MODES):
            return NotInstalledError()
        case 404:
            return _NotFoundError(message or f"{path} not found", ExitCode.NOT_FOUND)
        case _:
            return UserError(f"the API server answered {status} to {path}: {message}", ExitCode.CLUSTER)


def _decode(model: type[M], item: Mapping[str, Any]) -> M:
    try:
        return model.model_validate(item)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        name = (item.get("metadata") or {}).get("name", "")
        raise UserError(
            f"{model.__name__} {name!r} is not readable by this version of the plugin: {where}: {first['msg']}",
            ExitCode.CLUSTER,
        ) from error


def _machine(item: Mapping[str, Any]) -> MachineView:
    status = item.get("status") or {}
    info = status.get("nodeInfo") or {}
    ready = next((c.get("status") for c in status.get("conditions") or [] if c.get("type") == "Ready"), "Unknown")
    return MachineView(
        name=item["metadata"]["name"],
        zone=labels(item).get(ZONE_LABEL, ""),
        kernel=info.get("kernelVersion", ""),
        kubelet=info.get("kubeletVersion", ""),
        ready=ready == "True",
        cordoned=bool((item.get("spec") or {}).get("unschedulable")),
    )
