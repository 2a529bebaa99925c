"""A kubeconfig file to a ClusterConfig, or to a ConfigError that names file and field. Imported where there is one: a
Pod has none.

It does not merge several files, does not look at $KUBECONFIG or ~/.kube (an agent must never pick up a person's
credentials by accident), knows no proxy, and refuses fields that it would otherwise ignore silently.
"""

from __future__ import annotations

import base64
import binascii
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import msgspec

from proxymode_agent.kube.cluster import ClusterConfig, ConfigError, authority, content, is_url
from proxymode_agent.kube.credentials import (
    ClientCertificate,
    Credential,
    CredentialError,
    FileCredentials,
    StaticCredentials,
    bearer,
    token_in,
)

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from proxymode_agent.kube.credentials import Credentials
    from proxymode_agent.kube.exec_plugin import ExecPlugin

EXEC_API_VERSIONS: Final = ("client.authentication.k8s.io/v1", "client.authentication.k8s.io/v1beta1")
_UNSUPPORTED_USER: Final = {
    "username": "basic authentication was removed in Kubernetes 1.19; use a token or a client certificate",
    "auth-provider": "auth providers were removed in Kubernetes 1.26; use exec",
    "as": "impersonation is not supported; use credentials of the user itself",
}


def from_kubeconfig(path: Path) -> ClusterConfig:
    """The current context of the kubeconfig at `path`. Raises ConfigError."""
    document = _mapping(_parse(path), f"kubeconfig {path}")
    name = document.get("current-context")
    if not name:
        raise ConfigError(f"{path}: current-context is not set; it must name one of contexts")
    context = _named(document, "contexts", "context", name, "current-context", path)
    cluster = _named(document, "clusters", "cluster", context.value("cluster"), f"{context.where}.cluster", path)
    user = _named(document, "users", "user", context.value("user"), f"{context.where}.user", path)

    server = cluster.text("server")
    if server is None or not is_url(server):
        raise cluster.error("server", "must be a URL such as https://10.0.0.1:6443")
    if cluster.value("proxy-url"):
        raise cluster.error("proxy-url", "is not supported; remove it")
    insecure = cluster.value("insecure-skip-tls-verify") or False
    if not isinstance(insecure, bool):
        raise cluster.error("insecure-skip-tls-verify", "must be true or false")
    ca_data = authority(cluster.data("certificate-authority"), f"{path}: {cluster.where}.certificate-authority")
    if insecure and ca_data is not None:
        raise cluster.error("insecure-skip-tls-verify", "excludes a certificate authority; keep one of them")
    return ClusterConfig(
        server=server.rstrip("/"),
        credentials=_credentials(user, cluster, server, ca_data),
        ca_data=ca_data,
        ca_file=cluster.renewed("certificate-authority"),
        insecure=insecure,
        tls_server_name=cluster.text("tls-server-name"),
    )


class _Section(msgspec.Struct, frozen=True):
    """One mapping of the file, and where it stands, for messages."""

    values: Mapping[str, Any]
    file: Path
    where: str

    def value(self, field: str) -> Any:
        return self.values.get(field)

    def error(self, field: str, problem: str) -> ConfigError:
        value = self.values.get(field)
        shown = f" is {value!r}, but" if isinstance(value, str | int | bool) and value != "" else ""
        return ConfigError(f"{self.file}: {self.where}.{field}{shown} {problem}")

    def text(self, field: str) -> str | None:
        value = self.values.get(field)
        if value is None or value == "":
            return None
        if not isinstance(value, str):
            raise self.error(field, "must be a string")
        return value

    def path(self, field: str) -> Path | None:
        """A file named by the kubeconfig, relative to the folder of the kubeconfig."""
        text = self.text(field)
        return None if text is None else self.file.parent / text

    def renewed(self, field: str) -> Path | None:
        """The file that `field` names, unless `field`-data makes it of no account."""
        return None if self.text(f"{field}-data") is not None else self.path(field)

    def data(self, field: str) -> bytes | None:
        """`field`-data (base64, has precedence) or the content of the file that `field` names."""
        encoded = self.text(f"{field}-data")
        if encoded is not None:
            try:
                return base64.b64decode(encoded, validate=True)
            except binascii.Error as error:
                raise ConfigError(f"{self.file}: {self.where}.{field}-data is not base64: {error}") from error
        path = self.renewed(field)
        return None if path is None else content(path, f"{self.file}: {self.where}.{field}")


def _credentials(user: _Section, cluster: _Section, server: str, ca_data: bytes | None) -> Credentials:
    for field, problem in _UNSUPPORTED_USER.items():
        if user.value(field):
            raise ConfigError(f"{user.file}: {user.where}.{field}: {problem}")
    certificate, key = user.data("client-certificate"), user.data("client-key")
    if (certificate is None) != (key is None):
        given, missing = ("certificate", "key") if key is None else ("key", "certificate")
        raise ConfigError(f"{user.file}: {user.where}.client-{given} is given without client-{missing}")
    if user.value("exec") is not None:
        if certificate is not None or user.text("token") or user.text("tokenFile"):
            raise ConfigError(f"{user.file}: {user.where}.exec excludes token, tokenFile and client certificates")
        from proxymode_agent.kube.exec_plugin import ExecCredentials

        return ExecCredentials(_exec_plugin(user, cluster, server, ca_data))

    def read() -> Credential:
        # Files of a kubeconfig are read now to see that they are there, and again when they may have been renewed.
        try:
            certificate, key = user.data("client-certificate"), user.data("client-key")
        except ConfigError as error:
            raise CredentialError(str(error)) from error
        pair = ClientCertificate(certificate, key) if certificate is not None and key is not None else None
        token_file, token = user.path("tokenFile"), user.text("token")
        if token_file is not None:  # has precedence over token, as in client-go
            return Credential(token_in(token_file), pair)
        return Credential(None if token is None else bearer(token, f"{user.file}: {user.where}.token"), pair)

    if any(user.renewed(field) is not None for field in ("client-certificate", "client-key", "tokenFile")):
        return FileCredentials(read)
    try:
        return StaticCredentials(read())
    except CredentialError as error:
        raise ConfigError(str(error)) from error


def _exec_plugin(user: _Section, cluster: _Section, server: str, ca_data: bytes | None) -> ExecPlugin:
    section = _Section(_mapping(user.value("exec"), f"{user.file}: {user.where}.exec"), user.file, f"{user.where}.exec")
    version = section.text("apiVersion")
    if version not in EXEC_API_VERSIONS:
        raise section.error("apiVersion", f"must be {' or '.join(EXEC_API_VERSIONS)}")
    command = section.text("command")
    if command is None:
        raise section.error("command", "must name the program to run")
    if "/" in command:
        command = str(section.file.parent / command)
    if section.value("interactiveMode") == "Always":
        raise section.error("interactiveMode", "needs a terminal, which an agent has not; use Never or IfAvailable")
    args = section.value("args") or []
    if not isinstance(args, list):
        raise section.error("args", "must be a list of strings")
    env = section.value("env") or []
    if not isinstance(env, list) or not all(isinstance(item, dict) and "name" in item for item in env):
        raise section.error("env", "must be a list of name and value")
    info: dict[str, Any] | None = None
    if section.value("provideClusterInfo"):
        info = {"server": server}
        if ca_data is not None:
            info["certificate-authority-data"] = base64.b64encode(ca_data).decode()
        if cluster.value("insecure-skip-tls-verify"):
            info["insecure-skip-tls-verify"] = True
        if (name := cluster.text("tls-server-name")) is not None:
            info["tls-server-name"] = name
    from proxymode_agent.kube.exec_plugin import ExecPlugin

    return ExecPlugin(
        api_version=version,
        command=command,
        args=tuple(str(item) for item in args),
        env=tuple((str(item["name"]), str(item.get("value", ""))) for item in env),
        install_hint=section.text("installHint") or "",
        cluster=info,
    )


def _named(document: Mapping[str, Any], plural: str, kind: str, name: object, asked_by: str, path: Path) -> _Section:
    """The entry called `name` in the list `plural`; `asked_by` is the field that refers to it."""
    if not name:
        raise ConfigError(f"{path}: {asked_by} is not set; it must name one of {plural}")
    entries = document.get(plural) or []
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ConfigError(f"{path}: {plural} must be a list of objects with name and {kind}")
    for entry in entries:
        if entry.get("name") == name:
            where = f"{plural}[{name}].{kind}"
            return _Section(_mapping(entry.get(kind) or {}, f"{path}: {where}"), path, where)
    known = ", ".join(str(entry.get("name")) for entry in entries) or "none"
    raise ConfigError(f"{path}: {asked_by} is {name!r}, which {plural} does not contain; it has: {known}")


def _mapping(value: object, where: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise ConfigError(f"{where} must be an object, not {type(value).__name__}")
    return value


def _parse(path: Path) -> object:
    text = content(path, "kubeconfig")
    if text.startswith(b"{"):  # most likely JSON, which takes a hundredth of the time
        with suppress(msgspec.DecodeError):
            return msgspec.json.decode(text)
    import yaml  # a Pod has no kubeconfig

    try:
        # The parser in C, where this build of PyYAML has it.
        return yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except yaml.YAMLError as error:
        raise ConfigError(f"kubeconfig {path} is not YAML: {error}") from error
