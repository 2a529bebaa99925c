"""Kubeconfig files: what is read, and what the message says when something is wrong."""

from __future__ import annotations

import base64
import json
import ssl
from typing import TYPE_CHECKING, Any

import pytest

import yaml
from proxymode_agent.kube.cluster import ConfigError
from proxymode_agent.kube.config import in_cluster, load
from proxymode_agent.kube.credentials import (
    Credential,
    CredentialError,
    FileCredentials,
    StaticCredentials,
    token_in,
)
from proxymode_agent.kube.exec_plugin import ExecCredentials
from proxymode_agent.kube.kubeconfig import from_kubeconfig

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Write = Callable[..., Path]

CA = ssl.DER_cert_to_PEM_cert(ssl.create_default_context().get_ca_certs(binary_form=True)[0]).encode()
EXEC_VERSION = "client.authentication.k8s.io/v1"


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a kubeconfig with these cluster and user fields; other arguments replace top-level fields."""

    def write(cluster: Any = None, user: Any = None, **top: Any) -> Path:
        document = {
            "current-context": "main",
            "contexts": [{"name": "main", "context": {"cluster": "c1", "user": "u1"}}],
            "clusters": [{"name": "c1", "cluster": {"server": "https://10.0.0.1:6443"} | (cluster or {})}],
            "users": [{"name": "u1", "user": user if user is not None else {"token": "t"}}],
        } | top
        path = tmp_path / "kubeconfig"
        path.write_text(yaml.safe_dump(document))
        return path

    return write


async def credential(path: Path) -> Credential:
    return await from_kubeconfig(path).credentials.current()


async def test_a_kubeconfig_may_be_json_and_what_only_looks_so_is_yaml(write: Write) -> None:
    path = write()
    whole = yaml.safe_load(path.read_text())
    path.write_text(json.dumps(whole))
    assert await credential(path) == Credential("t")
    path.write_text(yaml.safe_dump(whole, default_flow_style=True))
    assert path.read_text().startswith("{")
    assert await credential(path) == Credential("t")


async def test_the_current_context_is_used(write: Write) -> None:
    other = {"name": "c2", "cluster": {"server": "https://other"}}
    path = write(
        contexts=[
            {"name": "x", "context": {"cluster": "c2", "user": "u1"}},
            {"name": "main", "context": {"cluster": "c1", "user": "u1"}},
        ],
        clusters=[other, {"name": "c1", "cluster": {"server": "https://10.0.0.1:6443/prefix/"}}],
    )
    config = load(path)
    assert config.server == "https://10.0.0.1:6443/prefix"
    assert (config.ca_data, config.insecure, config.tls_server_name) == (None, False, None)
    assert await config.credentials.current() == Credential("t")


async def test_certificates_come_from_data_or_from_files_beside_the_kubeconfig(write: Write, tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_bytes(CA)
    (tmp_path / "key.pem").write_bytes(b"KEY")
    path = write(
        cluster={"certificate-authority": "ca.pem", "tls-server-name": "api.example"},
        user={"client-certificate-data": base64.b64encode(b"CERT").decode(), "client-key": str(tmp_path / "key.pem")},
    )
    config = from_kubeconfig(path)
    assert (config.ca_data, config.ca_file, config.tls_server_name) == (CA, tmp_path / "ca.pem", "api.example")
    pair = (await config.credentials.current()).certificate
    assert pair is not None
    assert (pair.certificate, pair.key) == (b"CERT", b"KEY")


async def test_secrets_do_not_show_in_a_repr(write: Write) -> None:
    config = from_kubeconfig(write(user={"token": "very-secret"}))
    assert "very-secret" not in repr(config)


async def test_a_token_file_wins_over_a_token_and_is_read_again_after_a_refusal(write: Write, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("one\n")
    config = from_kubeconfig(write(user={"token": "zero", "tokenFile": "token"}))
    assert (await config.credentials.current()).token == "one"
    (tmp_path / "token").write_text("two\n")
    assert (await config.credentials.current()).token == "one", "a token is kept for a while"
    config.credentials.invalidate()
    assert (await config.credentials.current()).token == "two"


async def test_a_token_file_is_read_again_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "token").write_text("one")
    credentials = FileCredentials(lambda: Credential(token_in(tmp_path / "token")))
    assert (await credentials.current()).token == "one"
    (tmp_path / "token").write_text("two")
    monkeypatch.setattr("proxymode_agent.kube.credentials.FILE_SECONDS", 0.0)
    assert (await credentials.current()).token == "two"
    (tmp_path / "token").unlink()
    assert (await credentials.current()).token == "two", "nobody has refused it"
    credentials.invalidate()
    with pytest.raises(CredentialError):
        await credentials.current()


async def test_a_client_certificate_in_files_is_read_again_with_its_key(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def renew(text: bytes) -> None:
        (tmp_path / "cert.pem").write_bytes(b"CERT " + text)
        (tmp_path / "key.pem").write_bytes(b"KEY " + text)

    async def found() -> tuple[bytes, bytes]:
        pair = (await config.credentials.current()).certificate
        assert pair is not None
        return pair.certificate, pair.key

    renew(b"1")
    config = from_kubeconfig(write(user={"client-certificate": "cert.pem", "client-key": "key.pem"}))
    assert await found() == (b"CERT 1", b"KEY 1")
    renew(b"2")
    assert await found() == (b"CERT 1", b"KEY 1"), "kept for a while"
    config.credentials.invalidate()
    assert await found() == (b"CERT 2", b"KEY 2")
    renew(b"3")
    monkeypatch.setattr("proxymode_agent.kube.credentials.FILE_SECONDS", 0.0)
    assert await found() == (b"CERT 3", b"KEY 3")


@pytest.mark.parametrize("content", [None, "", " \n", "one\ntwo", "t\u00f6ken", "to\x00ken"])
async def test_a_token_file_without_a_token_is_named(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "token"
    if content is not None:
        path.write_text(content)
    with pytest.raises(CredentialError, match=f"token file {path}"):
        await FileCredentials(lambda: Credential(token_in(path))).current()


async def test_in_cluster_configuration(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("pod-token")
    (tmp_path / "ca.crt").write_bytes(CA)
    environ = {"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "6443"}
    config = in_cluster(tmp_path, environ)
    assert config.server == "https://[fd00::1]:6443"
    assert config.ca_data == CA
    assert (await config.credentials.current()).token == "pod-token"


@pytest.mark.parametrize(("host", "port"), [("[fd00::1]", "6443"), ("10.0.0.1", "https"), ("10.0.0.1", "99999")])
def test_what_is_no_address_of_an_api_server_is_named(tmp_path: Path, host: str, port: str) -> None:
    (tmp_path / "token").write_text("pod-token")
    (tmp_path / "ca.crt").write_bytes(CA)
    environ = {"KUBERNETES_SERVICE_HOST": host, "KUBERNETES_SERVICE_PORT": port}
    with pytest.raises(ConfigError, match=r"KUBERNETES_SERVICE_HOST is .* and KUBERNETES_SERVICE_PORT"):
        in_cluster(tmp_path, environ)


async def test_a_token_may_be_written_as_a_block_and_must_be_one_line(write: Write) -> None:
    assert await credential(write(user={"token": "secret\n"})) == Credential("secret")
    with pytest.raises(ConfigError, match=r"users\[u1\].user.token holds no bearer token"):
        from_kubeconfig(write(user={"token": "one\ntwo"}))


@pytest.mark.parametrize("environ", [{}, {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}])
def test_outside_a_pod_the_flag_is_named(tmp_path: Path, environ: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="give --kubeconfig FILE"):
        in_cluster(tmp_path, environ)


def plugin(tmp_path: Path, output: str, *, status: int = 0) -> dict[str, Any]:
    """An exec plugin that counts its runs, notes what it was told, and prints this."""
    script = tmp_path / "plugin"
    script.write_text(
        f'#!/bin/sh\necho run >>{tmp_path}/runs\nprintf %s "$KUBERNETES_EXEC_INFO $1 $EXTRA" >{tmp_path}/told\n'
        f"cat <<'END'\n{output}\nEND\necho oops >&2\nexit {status}\n"
    )
    script.chmod(0o755)
    return {"exec": {"apiVersion": EXEC_VERSION, "command": "./plugin", "args": ["now"], "interactiveMode": "Never"}}


def exec_answer(**status: str) -> str:
    return json.dumps({"apiVersion": EXEC_VERSION, "kind": "ExecCredential", "status": status})


def runs(tmp_path: Path) -> int:
    return len((tmp_path / "runs").read_text().splitlines())


async def test_an_exec_plugins_credential_is_kept_until_it_expires_or_is_refused(write: Write, tmp_path: Path) -> None:
    user = plugin(tmp_path, exec_answer(token="short", expirationTimestamp="2020-01-01T00:00:00Z"))
    config = from_kubeconfig(write(user=user))
    assert (await config.credentials.current()).token == "short"
    await config.credentials.current()
    assert runs(tmp_path) == 2, "expired: asked again"
    plugin(tmp_path, exec_answer(token="long", expirationTimestamp="2999-01-01T00:00:00Z"))
    assert (await config.credentials.current()).token == "long"
    await config.credentials.current()
    assert runs(tmp_path) == 3, "valid: kept"
    config.credentials.invalidate()
    await config.credentials.current()
    assert runs(tmp_path) == 4, "refused: asked again"


async def test_an_exec_plugin_is_told_what_the_kubeconfig_says(write: Write, tmp_path: Path) -> None:
    user = plugin(tmp_path, exec_answer(clientCertificateData="CERT", clientKeyData="KEY"))
    user["exec"] |= {"env": [{"name": "EXTRA", "value": "more"}], "provideClusterInfo": True}
    path = write(user=user, cluster={"insecure-skip-tls-verify": True})
    pair = (await credential(path)).certificate
    assert pair is not None
    assert (pair.certificate, pair.key) == (b"CERT", b"KEY")
    told, argument, extra = (tmp_path / "told").read_text().rsplit(" ", 2)
    assert (argument, extra) == ("now", "more")
    assert yaml.safe_load(told) == {
        "apiVersion": EXEC_VERSION,
        "kind": "ExecCredential",
        "spec": {
            "interactive": False,
            "cluster": {"server": "https://10.0.0.1:6443", "insecure-skip-tls-verify": True},
        },
    }


@pytest.mark.parametrize(
    ("output", "status", "words"),
    [
        ("no json", 0, "output is not JSON"),
        ("[]", 0, "not an ExecCredential"),
        ('{"kind":"ExecCredential","apiVersion":"v7","status":{}}', 0, "answered with apiVersion 'v7'"),
        ('{"kind":"ExecCredential","apiVersion":"' + EXEC_VERSION + '"}', 0, "has no status"),
        (exec_answer(), 0, "neither a token nor a client certificate"),
        (exec_answer(clientKeyData="KEY"), 0, "must be given together"),
        (exec_answer(token="t", expirationTimestamp="soon"), 0, "'soon' is not an RFC 3339 time"),
        (exec_answer(token="t"), 3, "ended with status 3: oops"),
    ],
)
async def test_a_bad_exec_plugin_is_named(write: Write, tmp_path: Path, output: str, status: int, words: str) -> None:
    path = write(user=plugin(tmp_path, output, status=status))
    with pytest.raises(CredentialError, match=words) as caught:
        await credential(path)
    assert f"exec plugin {tmp_path}/plugin" in str(caught.value)


async def test_a_missing_exec_plugin_is_named_with_its_hint(write: Write) -> None:
    user = {"exec": {"apiVersion": EXEC_VERSION, "command": "no-such-program", "installHint": "install it"}}
    with pytest.raises(CredentialError, match="no-such-program: No such file or directory; install it"):
        await credential(write(user=user))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"current-context": ""}, "current-context is not set"),
        ({"current-context": "nope"}, "current-context is 'nope', which contexts does not contain; it has: main"),
        ({"contexts": [{"name": "main", "context": {"user": "u1"}}]}, r"contexts\[main\].context.cluster is not set"),
        ({"clusters": []}, r"contexts\[main\].context.cluster is 'c1', which clusters does not contain; it has: none"),
        ({"users": "u1"}, "users must be a list of objects"),
        ({"users": [{"name": "u1", "user": "x"}]}, r"users\[u1\].user must be an object, not str"),
        ({"cluster": {"server": "10.0.0.1"}}, r"clusters\[c1\].cluster.server is '10.0.0.1', but must be a URL"),
        ({"cluster": {"server": None}}, r"cluster.server must be a URL such as https://10.0.0.1:6443"),
        ({"cluster": {"proxy-url": "http://p"}}, "proxy-url is 'http://p', but is not supported"),
        ({"cluster": {"insecure-skip-tls-verify": "yes"}}, "must be true or false"),
        ({"cluster": {"certificate-authority": "missing.pem"}}, "certificate-authority .*missing.pem: No such file"),
        ({"cluster": {"certificate-authority-data": "%%%"}}, "certificate-authority-data is not base64"),
        ({"cluster": {"certificate-authority-data": "QQ=="}}, "certificate-authority holds no PEM certificate"),
        (
            {
                "cluster": {
                    "certificate-authority-data": base64.b64encode(CA).decode(),
                    "insecure-skip-tls-verify": True,
                }
            },
            "excludes a certificate authority",
        ),
        ({"user": {"username": "me"}}, "basic authentication was removed"),
        ({"user": {"auth-provider": {"name": "gcp"}}}, "auth providers were removed"),
        ({"user": {"as": "root", "token": "t"}}, "impersonation is not supported"),
        ({"user": {"client-certificate-data": "QQ=="}}, "client-certificate is given without client-key"),
        ({"user": {"token": 7}}, r"users\[u1\].user.token is 7, but must be a string"),
        ({"user": {"exec": {"command": "x"}}}, "exec.apiVersion must be client.authentication.k8s.io/v1 or"),
        ({"user": {"exec": {"apiVersion": EXEC_VERSION}}}, "exec.command must name the program"),
        (
            {"user": {"exec": {"apiVersion": EXEC_VERSION, "command": "x", "interactiveMode": "Always"}}},
            "interactiveMode is 'Always', but needs a terminal",
        ),
        (
            {"user": {"exec": {"apiVersion": EXEC_VERSION, "command": "x", "args": "y"}}},
            "args is 'y', but must be a list",
        ),
        ({"user": {"exec": {"apiVersion": EXEC_VERSION, "command": "x", "env": [1]}}}, "env must be a list"),
        ({"user": {"exec": {"apiVersion": EXEC_VERSION, "command": "x"}, "token": "t"}}, "exec excludes token"),
    ],
)
def test_errors_name_file_field_and_what_would_be_right(write: Write, fields: dict[str, Any], words: str) -> None:
    path = write(**fields)
    with pytest.raises(ConfigError, match=words) as caught:
        from_kubeconfig(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("content", "words"), [(None, "No such file"), ("a: [", "is not YAML"), ("[]", "kubeconfig .* must be an object")]
)
def test_an_unreadable_file_is_named(tmp_path: Path, content: str | None, words: str) -> None:
    path = tmp_path / "kubeconfig"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigError, match=words) as caught:
        from_kubeconfig(path)
    assert str(path) in str(caught.value)


def test_no_persons_kubeconfig_is_picked_up(monkeypatch: pytest.MonkeyPatch, write: Write) -> None:
    monkeypatch.setenv("KUBECONFIG", str(write()))
    for name in ("KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ConfigError):
        load(None)


def test_kinds_of_credentials(write: Write, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("t")
    assert isinstance(from_kubeconfig(write()).credentials, StaticCredentials)
    assert isinstance(from_kubeconfig(write(user={"tokenFile": "token"})).credentials, FileCredentials)
    user = {"exec": {"apiVersion": EXEC_VERSION, "command": "x"}}
    assert isinstance(from_kubeconfig(write(user=user)).credentials, ExecCredentials)
