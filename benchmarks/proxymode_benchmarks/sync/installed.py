"""The agent installed as in its image: its wheel and the locked dependencies, compiled, in an environment of their own.

`python -m proxymode_benchmarks.sync.installed` makes it and prints where; it is kept in the cache for as long as the
agent's files and their lock stay the same. A development environment starts slower: it looks into more folders, and its
interpreter may be one that was compiled in haste. The image's is built with profile-guided and link-time optimisation,
and so is Debian's; what is in Python takes two thirds of the time with these.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

import proxymode_agent
import proxymode_api
import proxymode_flags
import proxymode_log
from proxymode_testbeds import cache

PACKAGES: Final = (proxymode_agent, proxymode_api, proxymode_flags, proxymode_log)
_DEBIANS: Final = Path("/usr/bin") / f"python{sys.version_info.major}.{sys.version_info.minor}"


def interpreter() -> Path:
    """Debian's interpreter, where it is of the version of this one, else this one."""
    return _DEBIANS if os.access(_DEBIANS, os.X_OK) else Path(sys.executable)


def environment(root: Path) -> Path:
    """The folder of the environment with what is in the checkout at `root`. Needs a package index the first time; then
    raises subprocess.CalledProcessError if that cannot be had."""
    lock = root / "requirements" / "agent.lock"
    version = subprocess.run([interpreter(), "-VV"], capture_output=True, text=True, check=True).stdout
    parts = [str(interpreter()), version, *(file.read_text() for file in (lock, root / "pyproject.toml", *_files()))]

    def build(folder: Path) -> None:
        cache.progress("installing the agent as in its image")
        pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
        subprocess.run([interpreter(), "-m", "venv", "--without-pip", folder], check=True)
        into = [*pip, "--python", str(folder / "bin" / "python"), "install", "--compile"]
        with tempfile.TemporaryDirectory(prefix="proxymode-wheel-") as wheels:
            wheel = [*pip, "wheel", "--no-build-isolation", "--no-deps", f"--wheel-dir={wheels}", str(root)]
            for command in (
                [*into, "--require-hashes", "--only-binary=:all:", f"--requirement={lock}"],
                wheel,
                [*into, "--no-deps", "--no-index", f"--find-links={wheels}", "proxymode"],
            ):
                subprocess.run(command, check=True, stdout=sys.stderr)

    return cache.entry("agent-environment", cache.digest(parts), build)


def command(environment: Path) -> list[str]:
    """What starts the agent: its script, whose first line names the folder in which it was installed."""
    return [str(environment / "bin" / name) for name in ("python", "proxymode-agent")]


def root() -> Path:
    """The checkout that this module is part of."""
    return Path(__file__).parents[3]


def _files() -> list[Path]:
    return sorted(file for package in PACKAGES for folder in package.__path__ for file in Path(folder).rglob("*.py"))


if __name__ == "__main__":
    print(environment(root()))
