"""Debian packages of any suite, unpacked into the cache without touching the system.

The test beds need programs and libraries that the machine's own suite lacks or has too old. Installing them would mix
suites, so apt runs on a private directory: its own sources list (the machine's own Debian mirror, another suite), its
own lists and an empty dpkg database. Signatures are checked as apt always does, against debian-archive-keyring; proxy
and other transport settings are the machine's own. Packages are unpacked, never configured: maintainer scripts do not
run, and dependencies are the caller's business, except that an exact one can be followed (`linux-image-amd64` is
empty and depends on the image of one version).

A suite's index is fetched when there is none, when it is a week old, when it lacks a package that is asked for, or when
the mirror no longer has a version that it names (sid drops superseded packages at once). In between versions stay as
they are, so caches keyed by them hold.
"""

from __future__ import annotations

import os
import platform
import re
import shlex
import subprocess
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from . import cache

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
INDEX_MAX_AGE_SECONDS = 7 * 24 * 3600
_EXACT_DEPENDENCY = re.compile(r"^\s*([a-z0-9][a-z0-9+.-]*)(?::\w+)?\s*\(=\s*([^)\s]+)\s*\)\s*$")


class DebianError(Exception):
    """apt or dpkg could not do what was asked; the message carries their own words."""


class MissingPackageError(DebianError):
    """A suite does not have one or more packages."""


@dataclass(frozen=True, slots=True)
class IndexTarget:
    """One line of `apt-get indextargets`: a package index that the machine's own apt is configured to use."""

    label: str
    release: str
    component: str
    repository: str


def resolve(suite: str, packages: Iterable[str], *, exact_dependencies: bool = False) -> dict[str, str]:
    """Return {package: version} as the suite ("sid", "bookworm", ...) has them now.

    With `exact_dependencies`, packages that these depend on with `(= version)` are included, recursively.

    Raises MissingPackageError naming the packages that the suite lacks, DebianError if the index cannot be had.
    """
    with _private_apt(suite) as apt:
        return apt.resolve(packages, exact_dependencies=exact_dependencies)


def unpack(suite: str, packages: Iterable[str], *, exact_dependencies: bool = False) -> Path:
    """Return a folder that holds the files of these packages as if `/` were there, from the cache where possible.

    The folder is shared: do not write to it. Raises as `resolve`, and DebianError if a download fails.
    """
    names = list(packages)
    with _private_apt(suite) as apt:
        versions = apt.resolve(names, exact_dependencies=exact_dependencies)
        try:
            return _unpacked(apt, versions)
        except DebianError:
            # The mirror may have moved on since the index was fetched; with a fresh one it is a plain failure.
            apt.refresh()
            fresh = apt.resolve(names, exact_dependencies=exact_dependencies)
            if fresh == versions:
                raise
            return _unpacked(apt, fresh)


def entry_key(versions: Mapping[str, str]) -> str:
    """The cache key of a set of packages: readable for one, a digest for many; depends on every version."""
    ordered = sorted(versions.items())
    first = next(iter(versions))
    if len(ordered) == 1:
        return f"{first}_{versions[first].replace(':', '%3a')}"
    return f"{first}+{len(ordered) - 1}-{cache.digest(f'{name}={version}' for name, version in ordered)}"


def choose_mirror(targets: Iterable[IndexTarget], codename: str) -> str:
    """Return the address of the Debian archive among the machine's own package indexes.

    `codename` is the machine's own suite. Labels are known only after the machine's first `apt-get update`; before
    that the index of the machine's own suite is taken.

    Raises DebianError if there is none.
    """
    mains = [target for target in targets if target.component == "main"]
    for target in mains:
        if target.label == "Debian":
            return target.repository
    for target in mains:
        if target.release == codename:
            return target.repository
    raise DebianError(
        "apt on this machine has no Debian mirror configured (no index labelled Debian or of suite"
        f" {codename!r} with component main); the test beds need one: see /etc/apt/sources.list.d"
    )


def parse_index_targets(text: str) -> list[IndexTarget]:
    """Read the output of `apt-get indextargets --format` with fields separated by `|`; unknown fields are empty."""
    targets = []
    for line in text.splitlines():
        fields = ["" if field.startswith("$(") else field for field in line.split("|")]
        if len(fields) == 4:
            targets.append(IndexTarget(*fields))
    return targets


def parse_stanzas(text: str) -> list[dict[str, str]]:
    """Read the control stanzas that `apt-cache show` prints into {field: first line of the value}."""
    stanzas: list[dict[str, str]] = []
    for paragraph in text.split("\n\n"):
        stanza = {}
        for line in paragraph.splitlines():
            name, colon, value = line.partition(":")
            if colon and not line[0].isspace():
                stanza[name] = value.strip()
        if stanza:
            stanzas.append(stanza)
    return stanzas


def exact_dependencies_of(stanza: Mapping[str, str]) -> dict[str, str]:
    """Return {package: version} of the dependencies of the form `package (= version)`, without alternatives."""
    found = {}
    for field in ("Pre-Depends", "Depends"):
        for dependency in stanza.get(field, "").split(","):
            if match := _EXACT_DEPENDENCY.match(dependency):
                found[match[1]] = match[2]
    return found


@dataclass(frozen=True, slots=True)
class _PrivateApt:
    """apt on a directory of its own, for one suite; made by `_private_apt`, which holds the directory's lock."""

    suite: str
    home: Path

    @property
    def _fetched(self) -> Path:
        """A file whose modification time is that of the last successful refresh."""
        return self.home / "fetched"

    def refresh_if_old(self) -> None:
        had_index = self._fetched.exists()
        if had_index and time.time() - self._fetched.stat().st_mtime < INDEX_MAX_AGE_SECONDS:
            return
        try:
            self.refresh()
        except DebianError as error:
            if not had_index:
                raise
            cache.progress(f"going on with the old index of {self.suite}: {error}")

    def refresh(self) -> None:
        """Fetch the suite's index from the mirror that the machine has configured now."""
        mirror = _machine_mirror()
        self._configure(mirror)
        cache.progress(f"fetching the package index of {self.suite} from {mirror}")
        # Without this, apt-get update says 0 although a source could not be fetched.
        self._run(["apt-get", "update", "-qq", "-o", "APT::Update::Error-Mode=any"])
        self._fetched.touch()

    def _configure(self, mirror: str) -> None:
        for folder in ("lists/partial", "archives/partial"):
            (self.home / folder).mkdir(parents=True, exist_ok=True)
        (self.home / "status").touch()
        (self.home / "sources.list").write_text(f"deb [signed-by={KEYRING}] {mirror} {self.suite} main\n")
        # Transport settings (proxies, date checks) are the machine's; its hooks, pins and other sources are not ours.
        acquire = [line for line in _run(["apt-config", "dump"]).splitlines() if line.startswith("Acquire::")]
        settings = {
            "Dir::Etc::main": "/dev/null",
            "Dir::Etc::parts": "/dev/null",
            "Dir::Etc::preferences": "/dev/null",
            "Dir::Etc::preferencesparts": "/dev/null",
            "Dir::Etc::trusted": "/dev/null",
            "Dir::Etc::trustedparts": "/dev/null",
            "Dir::Etc::sourcelist": str(self.home / "sources.list"),
            "Dir::Etc::sourceparts": "/dev/null",
            "Dir::State": str(self.home),
            "Dir::State::lists": str(self.home / "lists"),
            "Dir::State::status": str(self.home / "status"),
            "Dir::Cache": str(self.home),
            "Acquire::Languages": "none",
            "Acquire::PDiffs": "false",
            # The cache folder may lie where the user _apt cannot go.
            "APT::Sandbox::User": "root",
        }
        lines = acquire + [f'{name} "{value}";' for name, value in settings.items()]
        (self.home / "apt.conf").write_text("\n".join(lines) + "\n")

    def resolve(self, packages: Iterable[str], *, exact_dependencies: bool) -> dict[str, str]:
        names = list(packages)
        try:
            return self._resolve_from_index(names, exact_dependencies=exact_dependencies)
        except MissingPackageError:
            # It may be newer than our index.
            self.refresh()
            return self._resolve_from_index(names, exact_dependencies=exact_dependencies)

    def _resolve_from_index(self, packages: Iterable[str], *, exact_dependencies: bool) -> dict[str, str]:
        versions: dict[str, str] = {}
        wanted = dict.fromkeys(packages)
        while wanted:
            stanzas = self._show(list(wanted))
            versions |= {name: stanzas[name]["Version"] for name in wanted}
            wanted = {}
            if exact_dependencies:
                for stanza in stanzas.values():
                    wanted |= dict.fromkeys(exact_dependencies_of(stanza).keys() - versions.keys())
        return versions

    def _show(self, packages: list[str]) -> dict[str, dict[str, str]]:
        # Exits with 100 when one is missing, so what is missing is read from the output.
        shown = self._popen(["apt-cache", "show", "--no-all-versions", *packages])
        stanzas = {stanza["Package"]: stanza for stanza in parse_stanzas(shown.stdout) if "Package" in stanza}
        if missing := [name for name in packages if name not in stanzas]:
            raise MissingPackageError(
                f"Debian {self.suite} has no package {', '.join(missing)}:"
                " it was renamed or removed there, or the name is wrong"
            )
        return stanzas

    def download(self, versions: Mapping[str, str], folder: Path) -> None:
        """Fetch the .debs of exactly these versions into the folder."""
        self._run(["apt-get", "download", "-qq", *(f"{name}={version}" for name, version in versions.items())], folder)

    def _popen(self, command: list[str], folder: Path | None = None) -> subprocess.CompletedProcess[str]:
        environment = os.environ | {"APT_CONFIG": str(self.home / "apt.conf"), "LC_ALL": "C.UTF-8"}
        return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)

    def _run(self, command: list[str], folder: Path | None = None) -> str:
        return _checked(command, self._popen(command, folder), f"suite {self.suite}: ")


@contextmanager
def _private_apt(suite: str) -> Iterator[_PrivateApt]:
    """The private apt of a suite, its index fetched; one process at a time."""
    if not re.fullmatch(r"[a-z][a-z0-9-]*", suite):
        raise ValueError(f"Debian suite {suite!r}: must be a suite or code name such as 'sid' or 'bookworm'")
    if not KEYRING.exists():
        raise DebianError(f"{KEYRING} is missing: install the package debian-archive-keyring")
    home = cache.root() / "apt" / suite
    with cache.locked(home.parent / f".{suite}.lock"):
        apt = _PrivateApt(suite, home)
        apt.refresh_if_old()
        yield apt


def _machine_mirror() -> str:
    fields = "$(LABEL)|$(RELEASE)|$(COMPONENT)|$(REPO_URI)"
    targets = _run(["apt-get", "indextargets", "--format", fields, "Created-By: Packages"])
    codename = platform.freedesktop_os_release().get("VERSION_CODENAME", "")
    return choose_mirror(parse_index_targets(targets), codename)


def _unpacked(apt: _PrivateApt, versions: Mapping[str, str]) -> Path:
    def build(root: Path) -> None:
        names = " ".join(list(versions)[:3]) + (f" and {len(versions) - 3} more" if len(versions) > 3 else "")
        cache.progress(f"downloading and unpacking from {apt.suite}: {names}")
        with tempfile.TemporaryDirectory(dir=root.parent, prefix=".download-") as downloads:
            apt.download(versions, Path(downloads))
            for deb in sorted(Path(downloads).glob("*.deb")):
                _run(["dpkg-deb", "--extract", str(deb), str(root)])

    return cache.entry("debs", entry_key(versions), build)


def _run(command: list[str]) -> str:
    completed = subprocess.run(command, capture_output=True, text=True, check=False)
    return _checked(command, completed, "")


def _checked(command: list[str], completed: subprocess.CompletedProcess[str], where: str) -> str:
    if completed.returncode != 0:
        said = completed.stderr.strip() or completed.stdout.strip()
        raise DebianError(f"{where}`{shlex.join(command[:3])} ...` failed with status {completed.returncode}: {said}")
    return completed.stdout
