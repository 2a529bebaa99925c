"""What the manifests promise: rights, capabilities, samples, images. That an API server takes them is for tests/api."""

from __future__ import annotations

import re
import shlex
import subprocess
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

import pytest

import yaml
from proxymode_agent import flags as agent_flags
from proxymode_api.proxymode import ProxyMode
from proxymode_operator import settings as operator_settings

CHECKOUT = Path(__file__).parents[2]
MANIFESTS = CHECKOUT / "manifests"
IMAGES = CHECKOUT / "images"
SAMPLES = sorted((MANIFESTS / "samples").glob("*.yaml"))


def load(path: Path) -> list[dict[str, Any]]:
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


@cache
def everything() -> tuple[dict[str, Any], ...]:
    return tuple(document for path in sorted((MANIFESTS / "base").glob("*/*.yaml")) for document in load(path))


def one(kind: str, name: str) -> dict[str, Any]:
    (found,) = [o for o in everything() if o["kind"] == kind and o["metadata"]["name"] == name]
    return found


def may(component: str, verb: str, group: str, resource: str, name: str = "") -> bool:
    """RBAC as the authorizer reads it: some rule of a role bound to the component's ServiceAccount allows it."""
    subject = {"kind": "ServiceAccount", "name": f"proxymode-{component}", "namespace": "proxymode-system"}
    bindings = [o for o in everything() if o["kind"].endswith("RoleBinding") and subject in o["subjects"]]
    return any(
        verb in rule["verbs"]
        and group in rule["apiGroups"]
        and resource in rule["resources"]
        and ("resourceNames" not in rule or name in rule["resourceNames"])
        for binding in bindings
        for rule in one(binding["roleRef"]["kind"], binding["roleRef"]["name"])["rules"]
    )


@pytest.mark.parametrize("verb", ["list", "watch"])
def test_both_read_what_they_watch(verb: str) -> None:
    assert may("operator", verb, "proxymode.io", "proxymodes")
    for component in ("operator", "agent"):
        assert may(component, verb, "proxymode.io", "nodeproxymodes")
        assert may(component, verb, "", "nodes")
    assert may("agent", verb, "", "services")
    assert may("agent", verb, "discovery.k8s.io", "endpointslices")
    assert verb == "get" or may("agent", verb, "networking.k8s.io", "servicecidrs")


def test_both_post_events_and_read_nothing_by_it() -> None:
    for component in ("operator", "agent"):
        assert may(component, "create", "events.k8s.io", "events")
        assert not may(component, "list", "events.k8s.io", "events")


def test_no_field_has_two_writers() -> None:
    assert may("operator", "patch", "proxymode.io", "proxymodes/status")
    assert may("operator", "create", "proxymode.io", "nodeproxymodes")
    assert may("operator", "patch", "proxymode.io", "nodeproxymodes")
    assert may("agent", "patch", "proxymode.io", "nodeproxymodes/status")
    for verb in ("create", "patch", "update", "delete"):
        assert not may("operator", verb, "proxymode.io", "nodeproxymodes/status")
        assert not may("agent", verb, "proxymode.io", "nodeproxymodes")
        assert not may("agent", verb, "proxymode.io", "proxymodes")
        assert not may("agent", verb, "proxymode.io", "proxymodes/status")


def test_nobody_writes_to_services_or_pods_and_only_the_operator_to_nodes_which_a_policy_bounds() -> None:
    for component in ("operator", "agent"):
        for verb in ("create", "patch", "update", "delete"):
            for group, resource in (("", "nodes/status"), ("", "services"), ("", "pods")):
                assert not may(component, verb, group, resource)
            assert may(component, verb, "", "nodes") is ((component, verb) == ("operator", "patch"))
        assert not may(component, "get", "", "secrets")
        assert not any(may(component, verb, "", "secrets") for verb in ("list", "watch"))


def test_of_daemon_sets_the_operator_may_change_kube_proxys_alone() -> None:
    for verb in ("get", "patch"):
        assert may("operator", verb, "apps", "daemonsets", "kube-proxy")
        assert not may("operator", verb, "apps", "daemonsets", "calico-node")
    assert not any(may("operator", verb, "apps", "daemonsets") for verb in ("list", "watch", "create", "delete"))
    assert not any(may("agent", verb, "apps", "daemonsets", "kube-proxy") for verb in ("get", "patch"))


def test_no_rule_has_a_wildcard() -> None:
    for document in everything():
        for rule in document.get("rules", ()):
            assert "*" not in [*rule["apiGroups"], *rule["resources"], *rule["verbs"]]


def test_the_lease_is_the_operators_own() -> None:
    roles = {o["metadata"]["namespace"] for o in everything() if o["kind"] == "Role" and "leases" in str(o["rules"])}
    assert roles == {"proxymode-system"}
    assert may("operator", "update", "coordination.k8s.io", "leases", operator_settings.LEASE_NAME)
    assert not may("operator", "update", "coordination.k8s.io", "leases", "kube-scheduler")
    assert not may("agent", "get", "coordination.k8s.io", "leases", operator_settings.LEASE_NAME)


def pod(kind: str, name: str) -> dict[str, Any]:
    spec: dict[str, Any] = one(kind, name)["spec"]["template"]["spec"]
    return spec


def test_the_agent_has_net_admin_and_nothing_else() -> None:
    spec = pod("DaemonSet", "proxymode-agent")
    (container,) = spec["containers"]
    context = container["securityContext"]
    assert context["capabilities"] == {"drop": ["ALL"], "add": ["NET_ADMIN"]}
    assert context["readOnlyRootFilesystem"] is True
    assert context["allowPrivilegeEscalation"] is False
    assert "privileged" not in context
    assert not {"hostPID", "hostIPC"} & spec.keys()
    writable = [mount["name"] for mount in container["volumeMounts"] if not mount.get("readOnly")]
    paths = {volume["name"]: volume["hostPath"]["path"] for volume in spec["volumes"]}
    assert [paths[name] for name in writable] == ["/var/lib/proxymode", "/proc/sys/net"]


def test_the_agent_runs_on_every_linux_node_and_needs_no_service_to_start() -> None:
    spec = pod("DaemonSet", "proxymode-agent")
    assert spec["hostNetwork"] is True
    assert spec["dnsPolicy"] == "Default"
    assert spec["priorityClassName"] == "system-node-critical"
    assert spec["nodeSelector"] == {"kubernetes.io/os": "linux"}
    assert spec["tolerations"] == [{"operator": "Exists"}]
    assert spec["containers"][0]["envFrom"] == [{"configMapRef": {"name": "api-server"}}]


def test_the_agent_keeps_off_kube_proxys_ports() -> None:
    (container,) = pod("DaemonSet", "proxymode-agent")["containers"]
    flags = dict(argument.removeprefix("--").split("=", 1) for argument in container["args"] if "-address=" in argument)
    ports = {flag: int(address.rpartition(":")[2]) for flag, address in flags.items()}
    assert ports.pop("node-healthz-bind-address") == 10256, "only while it stands in kube-proxy's place"
    assert set(ports.values()) == {10349, 10356}


def test_the_operator_is_nobody() -> None:
    spec = pod("Deployment", "proxymode-operator")
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["priorityClassName"] == "system-cluster-critical"
    (container,) = spec["containers"]
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert "hostNetwork" not in spec
    assert one("Deployment", "proxymode-operator")["spec"]["replicas"] == 2
    selector = one("PodDisruptionBudget", "proxymode-operator")["spec"]["selector"]["matchLabels"]
    assert selector.items() <= one("Deployment", "proxymode-operator")["spec"]["template"]["metadata"]["labels"].items()


def arguments(kind: str, name: str) -> list[str]:
    """A container's arguments as the kubelet expands them."""
    (container,) = pod(kind, name)["containers"]
    variables = {entry["name"]: "some-value" for entry in container["env"]}
    return [re.sub(r"\$\((\w+)\)", lambda found: variables[found[1]], argument) for argument in container["args"]]


def test_both_programs_understand_their_arguments() -> None:
    operator = operator_settings.parse(arguments("Deployment", "proxymode-operator"), {})
    assert (operator.namespace, operator.leader_elect) == ("some-value", True)
    agent = agent_flags.parse(arguments("DaemonSet", "proxymode-agent"))
    assert agent.node_name == "some-value"
    assert agent.standalone is None, "its NodeProxyMode decides"
    assert str(agent.state_dir) == "/var/lib/proxymode"
    assert str(agent.node_healthz_address) == "0.0.0.0:10256", "where load balancers of clouds ask for kube-proxy"


def test_probes_ask_the_ports_that_the_flags_open() -> None:
    for kind, name in (("Deployment", "proxymode-operator"), ("DaemonSet", "proxymode-agent")):
        (container,) = pod(kind, name)["containers"]
        named = {port["name"]: port["containerPort"] for port in container["ports"]}
        (flag,) = [a for a in container["args"] if a.startswith("--healthz-bind-address=")]
        for probe in ("livenessProbe", "readinessProbe"):
            port = container[probe]["httpGet"]["port"]
            assert named.get(port, port) == int(flag.rpartition(":")[2])


def test_modules_are_loaded_by_an_init_container_that_only_the_overlay_has() -> None:
    assert "initContainers" not in pod("DaemonSet", "proxymode-agent")
    (patch,) = load(MANIFESTS / "overlays/load-modules/init-container.yaml")
    (init,) = patch["spec"]["template"]["spec"]["initContainers"]
    assert init["securityContext"]["capabilities"] == {"drop": ["ALL"], "add": ["SYS_MODULE"]}
    assert "containers" not in patch["spec"]["template"]["spec"]


@pytest.mark.parametrize(
    ("policy", "kind", "name"),
    [
        ("proxymode-agent-own-node", "DaemonSet", "proxymode-agent"),
        ("proxymode-operator-no-intent", "Deployment", "proxymode-operator"),
    ],
)
def test_policies_name_the_users_that_really_run(policy: str, kind: str, name: str) -> None:
    account = one("ServiceAccount", pod(kind, name)["serviceAccountName"])["metadata"]
    (condition,) = one("ValidatingAdmissionPolicy", policy)["spec"]["matchConditions"]
    assert f"'system:serviceaccount:{account['namespace']}:{account['name']}'" in condition["expression"]


def test_the_base_lists_every_file() -> None:
    (base,) = load(MANIFESTS / "base/kustomization.yaml")
    files = {str(path.relative_to(MANIFESTS / "base")) for path in (MANIFESTS / "base").glob("*/*.yaml")}
    assert files == {entry for entry in base["resources"] if "/" in entry and not entry.startswith("..")}


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)
def test_samples_are_read_by_the_models_without_a_field_lost(path: Path) -> None:
    (document,) = load(path)
    spec = ProxyMode.model_validate(document).model_dump(mode="json", by_alias=True, exclude_unset=True)["spec"]
    assert spec == document["spec"]


def test_there_are_samples() -> None:
    assert {path.stem for path in SAMPLES} == {"simple", "staged-canary", "by-zone"}


def instructions(dockerfile: Path) -> list[list[str]]:
    """The Dockerfile as instruction and words; comments and continuation lines resolved."""
    text = re.sub(r"(?m)^#.*\n", "", dockerfile.read_text()).replace("\\\n", " ")
    return [shlex.split(line) for line in text.splitlines() if line.strip()]


def stages(dockerfile: Path) -> list[list[list[str]]]:
    out: list[list[list[str]]] = []
    for words in instructions(dockerfile):
        if words[0] == "FROM":
            out.append([])
        out[-1].append(words)
    return out


COMPONENTS = pytest.mark.parametrize("component", ["operator", "agent"])


@COMPONENTS
def test_what_an_image_copies_exists(component: str) -> None:
    copies = [words for words in instructions(IMAGES / component / "Dockerfile") if words[0] == "COPY"]
    assert copies
    for words in copies:
        if not words[1].startswith("--from="):
            for source in words[1:-1]:
                assert (CHECKOUT / source).exists(), source


@COMPONENTS
def test_an_image_copies_all_that_the_wheel_is_made_of(component: str) -> None:
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())
    copied = {s for words in instructions(IMAGES / component / "Dockerfile") if words[0] == "COPY" for s in words[1:-1]}
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    for source in (*wheel["packages"], *wheel["shared-data"]):
        assert any(Path(source).is_relative_to(folder) for folder in copied), source
    assert {project["project"]["readme"], *project["project"]["license-files"]} <= copied


@COMPONENTS
def test_everything_installed_is_locked_with_hashes(component: str) -> None:
    for words in instructions(IMAGES / component / "Dockerfile"):
        text = " ".join(words)
        for command in re.findall(r"pip install [^&]*", text):
            assert "--require-hashes" in command or "--no-index" in command, command
    for lock in ("build", component):
        for entry in re.split(r"\n(?=[a-zA-Z0-9])", (CHECKOUT / f"requirements/{lock}.lock").read_text().strip()):
            if not entry.startswith("#"):
                assert re.match(r"[\w.\[\]-]+==[\w.+!-]+ .*--hash=sha256:", entry, re.DOTALL), entry[:60]


@COMPONENTS
def test_the_final_stage_builds_nothing(component: str) -> None:
    build, final = stages(IMAGES / component / "Dockerfile")
    assert any("wheel" in words for words in build)
    assert not any("pip" in words for words in final)
    assert [words[1:] for words in final if words[0] == "USER"] == [["0:0" if component == "agent" else "65532:65532"]]


@COMPONENTS
def test_the_entry_point_is_one_that_the_wheel_installs(component: str) -> None:
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())
    (entry,) = [w for w in instructions(IMAGES / component / "Dockerfile") if w[0] == "ENTRYPOINT"]
    assert entry[1].strip("[]") in project["project"]["scripts"]


@COMPONENTS
def test_manifests_run_the_image_under_the_version_of_the_project(component: str) -> None:
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())
    (base,) = load(MANIFESTS / "base/kustomization.yaml")
    assert {"name": f"proxymode-{component}", "newTag": project["project"]["version"]} in base["images"]
    kind = "Deployment" if component == "operator" else "DaemonSet"
    assert pod(kind, f"proxymode-{component}")["containers"][0]["image"] == f"proxymode-{component}"


@COMPONENTS
def test_the_build_context_has_what_an_image_copies(component: str) -> None:
    kept = {line[1:] for line in (CHECKOUT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copies = [words for words in instructions(IMAGES / component / "Dockerfile") if words[0] == "COPY"]
    sources = {source for words in copies if not words[1].startswith("--from=") for source in words[1:-1]}
    assert {source.partition("/")[0] for source in sources} <= kept


def test_make_builds_both_images_for_a_registry() -> None:
    ran = subprocess.run(
        ["make", "--no-print-directory", "images", "BUILD=echo build --push", "REGISTRY=registry.example.org/"],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    version = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]["version"]
    assert ran.stdout.splitlines() == [
        f"build --push --file images/{name}/Dockerfile --tag registry.example.org/proxymode-{name}:{version} ."
        for name in ("agent", "operator")
    ]
