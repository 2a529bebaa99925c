"""What users install: wheel and sdist are built, and a fresh environment gets the three commands out of the wheel."""

from __future__ import annotations

import asyncio
import json
import sys
import tarfile
from importlib.metadata import version as distribution_version
from pathlib import Path

import pytest

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
COMMANDS = ("proxymode-operator", "proxymode-agent", "kubectl-proxymode")
VERSION = distribution_version("proxymode")


async def output(*command: str | Path, cwd: Path = ROOT, environment: dict[str, str] | None = None) -> str:
    """What a command prints. Fails with all that it printed where it fails."""
    process = await asyncio.create_subprocess_exec(
        *map(str, command),
        cwd=cwd,
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await process.communicate()
    assert process.returncode == 0, f"{command}:\n{said.decode()}"
    return said.decode()


async def test_a_fresh_environment_gets_three_commands_and_the_manifests(tmp_path: Path) -> None:
    await output(BIN / "hatchling", "build", "--directory", tmp_path / "dist")
    wheel, sdist = (next((tmp_path / "dist").glob(kind)) for kind in ("*.whl", "*.tar.gz"))
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"LICENSE", "README.md", "Makefile", "crds/proxymodes.yaml", "manifests/kustomization.yaml"} <= names

    fresh = tmp_path / "fresh"
    await output(sys.executable, "-m", "venv", "--without-pip", fresh)
    await install(fresh, f"{wheel}[operator,agent,cli]")
    for command in COMMANDS:
        # Elsewhere, and without this checkout's environment, so that nothing of it is imported.
        assert VERSION in await output(fresh / "bin" / command, "--version", cwd=tmp_path, environment={})
        assert "sage" in await output(fresh / "bin" / command, "--help", cwd=tmp_path, environment={})
    assert (fresh / "share/proxymode/crds/proxymodes.yaml").is_file()
    assert (fresh / "share/proxymode/manifests/kustomization.yaml").is_file()


async def install(fresh: Path, wanted: str) -> None:
    """pip install, at the versions of the lock; without their hashes, for pip would want one of our own wheel then."""
    pinned = fresh / "constraints.txt"
    lines = (ROOT / "requirements/dev.lock").read_text(encoding="utf-8").splitlines()
    pinned.write_text("\n".join(line.split(" ")[0] for line in lines if "==" in line), encoding="utf-8")
    pip = (BIN / "pip", "--python", fresh / "bin/python", "install")
    await output(*pip, "--quiet", "--disable-pip-version-check", "--no-compile", "--constraint", pinned, wanted)


@pytest.mark.parametrize("image", ["agent", "operator"])
async def test_the_bill_of_materials_of_an_image_is_its_lock(image: str, tmp_path: Path) -> None:
    lock = ROOT / "requirements" / f"{image}.lock"
    written = tmp_path / "sbom.json"
    await output(BIN / "cyclonedx-py", "requirements", "--output-reproducible", "--output-file", written, lock)
    pinned = {line.split(" ")[0] for line in lock.read_text(encoding="utf-8").splitlines() if "==" in line}
    listed = {f"{part['name']}=={part['version']}" for part in json.loads(written.read_text())["components"]}
    assert {name.lower() for name in listed} == {name.lower() for name in pinned}
