"""The test beds' cache folder: what is slow to fetch or build is made once and kept, keyed by version.

An entry is a folder that is complete or absent, never half made: it is built under another name and renamed. A file
lock makes the second of two processes that want the same entry wait for the first instead of building it again.
Nothing here decides what a key must contain, and nothing is ever deleted: an entry whose key nobody computes any more
just lies there, and removing the whole folder is always safe while no test bed is running.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

_SAFE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+~%@=-]*")


def root() -> Path:
    """The cache folder: `$PROXYMODE_CACHE`, by default `~/.cache/proxymode`. It need not exist yet."""
    configured = os.environ.get("PROXYMODE_CACHE")
    return Path(configured).absolute() if configured else Path.home() / ".cache" / "proxymode"


def digest(parts: Iterable[str]) -> str:
    """Twelve hex digits that change when any part, or the order of the parts, changes; for use in keys."""
    joined = hashlib.sha256()
    for part in parts:
        data = part.encode()
        joined.update(len(data).to_bytes(8, "big") + data)
    return joined.hexdigest()[:12]


def entry(name: str, key: str, build: Callable[[Path], None]) -> Path:
    """Return the folder `<cache>/<name>/<key>`, calling `build(empty folder)` first if it does not exist.

    `build` fills the folder it is given; the folder is renamed afterwards, so nothing in it may hold its own path.
    What `build` raises is raised here, and the next caller starts again from an empty folder.

    Raises ValueError if name or key is not usable as a file name.
    """
    for what, value in (("name", name), ("key", key)):
        if not _SAFE_NAME.fullmatch(value):
            raise ValueError(f"cache {what} {value!r}: must be a plain file name matching {_SAFE_NAME.pattern}")
    shelf = root() / name
    made = shelf / key
    if made.is_dir():
        return made
    with locked(shelf / f".{key}.lock"):
        if made.is_dir():
            return made
        half_made = shelf / f".{key}.tmp"
        # Holding the lock, whatever lies here belongs to a process that died.
        shutil.rmtree(half_made, ignore_errors=True)
        half_made.mkdir()
        try:
            build(half_made)
            half_made.rename(made)
        except BaseException:
            shutil.rmtree(half_made, ignore_errors=True)
            raise
    return made


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on the file `path` (created if need be). Released by the kernel if the holder dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress(f"waiting for another process ({path})")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def progress(what: str) -> None:
    """Say on stderr, in one line, what takes long now."""
    print(f"proxymode: {what}", file=sys.stderr, flush=True)
