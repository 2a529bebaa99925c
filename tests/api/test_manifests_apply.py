"""`kubectl apply -k manifests/` is taken by an API server, changes nothing the second time, and the samples fit."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from proxymode_agent import flags as agent_flags

if TYPE_CHECKING:
    from proxymode_testbeds.apiserver import ApiServer

pytestmark = pytest.mark.api

MANIFESTS = Path(__file__).parents[2] / "manifests"
SAMPLES = sorted((MANIFESTS / "samples").glob("*.yaml"))


async def versions(api: ApiServer) -> dict[str, str]:
    """Every installed object and its resourceVersion."""
    rendered = (await api.kubectl("kustomize", str(MANIFESTS))).stdout
    live = (await api.kubectl("get", "--filename=-", "--output=json", stdin=rendered)).json()["items"]
    return {f"{item['kind']}/{item['metadata']['name']}": item["metadata"]["resourceVersion"] for item in live}


async def test_installing_is_one_command_and_a_second_time_changes_nothing(manifests: ApiServer) -> None:
    # Other tests share the server and may have applied one of the files by itself, without the label of them all.
    await manifests.kubectl("apply", f"--kustomize={MANIFESTS}")
    before = await versions(manifests)
    assert {name.partition("/")[0] for name in before} == {
        *("Namespace", "CustomResourceDefinition", "ServiceAccount", "ClusterRole", "ClusterRoleBinding", "Role"),
        *("RoleBinding", "ConfigMap", "Deployment", "DaemonSet", "PodDisruptionBudget"),
        *("ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"),
    }
    await manifests.kubectl("apply", f"--kustomize={MANIFESTS}")
    assert await versions(manifests) == before


KUBE_PROXY_ROLE = "role.rbac.authorization.k8s.io/proxymode-operator-take-over"
"""In kube-system: rights on an object are given in its namespace."""


async def test_everything_installed_is_in_the_namespace_or_in_none_but_the_role_about_kube_proxy(
    manifests: ApiServer,
) -> None:
    for kind in ("deployments", "daemonsets", "configmaps", "roles"):
        listed = await manifests.kubectl(
            "get", kind, "--all-namespaces", "--output=name", "--selector=app.kubernetes.io/part-of=proxymode"
        )
        inside = await manifests.kubectl("get", kind, "--namespace=proxymode-system", "--output=name")
        assert listed.stdout.split()
        elsewhere = set(listed.stdout.split()) - set(inside.stdout.split())
        assert elsewhere == ({KUBE_PROXY_ROLE} if kind == "roles" else set())


async def test_the_overlay_adds_an_init_container_and_no_other_right(manifests: ApiServer) -> None:
    """Rendered by kubectl, taken by the API server (dry run, so that the base stays installed)."""
    base = (await manifests.kubectl("kustomize", str(MANIFESTS))).stdout
    overlay = (await manifests.kubectl("kustomize", str(MANIFESTS / "overlays/load-modules"))).stdout
    assert overlay.count("SYS_MODULE") == 1
    assert "SYS_MODULE" not in base
    taken = await manifests.kubectl("apply", "--dry-run=server", f"--kustomize={MANIFESTS / 'overlays/load-modules'}")
    assert "daemonset.apps/proxymode-agent configured (server dry run)" in taken.stdout.splitlines()
    assert "deployment.apps/proxymode-operator unchanged (server dry run)" in taken.stdout.splitlines()


@pytest.mark.parametrize("name", sorted(path.parent.name for path in MANIFESTS.glob("overlays/*/kustomization.yaml")))
async def test_every_overlay_is_taken(manifests: ApiServer, name: str) -> None:
    taken = await manifests.kubectl("apply", "--dry-run=server", f"--kustomize={MANIFESTS / 'overlays' / name}")
    assert all(line.endswith("(server dry run)") for line in taken.stdout.splitlines())
    assert len(taken.stdout.splitlines()) > 10
    rendered = (await manifests.kubectl("kustomize", str(MANIFESTS / "overlays" / name))).stdout
    images = re.findall(r"image: (\S+)", rendered)
    assert len(images) >= 2
    assert all(re.fullmatch(r"proxymode-\w+:\d+\.\d+\.\d+", image) for image in images), images


async def test_the_overlay_of_getting_started_is_taken(manifests: ApiServer, tmp_path: Path) -> None:
    page = (MANIFESTS.parent / "docs/getting-started.md").read_text(encoding="utf-8")
    (overlay,) = re.findall(r"```yaml\n(# kustomization\.yaml\n.*?)```", page, re.DOTALL)
    base = Path("../" * len(tmp_path.parts)) / str(MANIFESTS / "base").lstrip("/")
    (tmp_path / "kustomization.yaml").write_text(overlay.replace("../proxymode/manifests/base", str(base)))
    taken = await manifests.kubectl("apply", "--dry-run=server", "--output=json", f"--kustomize={tmp_path}")
    found = {(item["kind"], item["metadata"]["name"]): item for item in taken.json()["items"]}
    for kind, name in (("DaemonSet", "proxymode-agent"), ("Deployment", "proxymode-operator")):
        (container,) = found[kind, name]["spec"]["template"]["spec"]["containers"]
        assert container["image"] == f"registry.example.org/{name}:0.1.0"
        assert found["ServiceAccount", name]["imagePullSecrets"] == [{"name": "registry"}]


async def test_to_uninstall_agents_clean_up_and_do_nothing_else(manifests: ApiServer, tmp_path: Path) -> None:
    up = Path("../" * len(tmp_path.parts))
    base, component = (up / str(MANIFESTS / folder).lstrip("/") for folder in ("base", "uninstall"))
    (tmp_path / "kustomization.yaml").write_text(f"resources: [{base}]\ncomponents: [{component}]\n")
    taken = await manifests.kubectl("apply", "--dry-run=server", "--output=json", f"--kustomize={tmp_path}")
    (agents,) = (item for item in taken.json()["items"] if item["kind"] == "DaemonSet")
    spec = agents["spec"]["template"]["spec"]
    (clean_up,), (agent,) = spec["initContainers"], spec["containers"]
    assert agent_flags.parse([argument.replace("$(NODE_NAME)", "n1") for argument in clean_up["args"]]).cleanup
    assert clean_up["image"] == agent["image"]
    assert agent["command"] == ["sleep", "infinity"]
    assert not {"args", "livenessProbe", "readinessProbe"} & agent.keys()
    for field in ("securityContext", "env"):
        assert clean_up[field] == agent[field]
    assert {mount["name"] for mount in clean_up["volumeMounts"]} <= {volume["name"] for volume in spec["volumes"]}


@pytest.mark.parametrize(("overlay", "port"), [("k3s", 6444), ("rke2", 6443)])
async def test_on_k3s_agents_use_their_nodes_loopback_and_the_operator_does_not(
    manifests: ApiServer, overlay: str, port: int
) -> None:
    rendered = (await manifests.kubectl("kustomize", str(MANIFESTS / "overlays" / overlay))).stdout
    assert "KUBERNETES_SERVICE_HOST: 127.0.0.1" in rendered
    assert f'KUBERNETES_SERVICE_PORT: "{port}"' in rendered
    assert rendered.count("configMapRef") == 1
    daemon_set = rendered[rendered.index("kind: DaemonSet") :]
    assert "configMapRef" in daemon_set


async def test_another_api_server_address_is_another_config_map(manifests: ApiServer, tmp_path: Path) -> None:
    """Pods restart with it: the name carries a hash of the contents."""
    (tmp_path / "kustomization.yaml").write_text(
        f"""
resources: [{Path("../" * len(tmp_path.parts)) / str(MANIFESTS / "base").lstrip("/")}]
configMapGenerator:
  - name: api-server
    namespace: proxymode-system
    behavior: merge
    literals: [KUBERNETES_SERVICE_HOST=api.example.org, KUBERNETES_SERVICE_PORT=6443]
"""
    )
    ours = (await manifests.kubectl("kustomize", str(tmp_path))).stdout
    base = (await manifests.kubectl("kustomize", str(MANIFESTS))).stdout

    def names(text: str) -> set[str]:
        return {word for word in text.split() if word.startswith("api-server-")}

    assert "KUBERNETES_SERVICE_HOST: api.example.org" in ours
    assert len(names(ours)) == len(names(base)) == 1
    assert names(ours) != names(base)


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)
async def test_samples_are_accepted(manifests: ApiServer, path: Path) -> None:
    taken = await manifests.kubectl("create", "--dry-run=server", f"--filename={path}")
    assert taken.stdout == "proxymode.proxymode.io/fleet created (server dry run)\n"
    assert taken.stderr == ""
