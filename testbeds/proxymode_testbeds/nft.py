"""nft of Debian sid beside the machine's own: what an administrator with a newer distribution would list our tables by.

The binary runs with sid's own C library, from the cache; nothing of it touches the system. `python -m
proxymode_testbeds.nft` fetches it and prints its version.
"""

from __future__ import annotations

import subprocess
from typing import Final

from proxymode_testbeds import debs

SUITE: Final = "sid"
# nft and all that it loads, as of 1.1.7; a library that joins them is named by the error that running it gives.
PACKAGES: Final = (
    *("nftables", "libnftables1", "libnftnl11", "libmnl0", "libxtables12", "libjansson4", "libgmp10"),
    *("libedit2", "libbsd0", "libmd0", "libtinfo6", "libc6"),
)


class NftError(Exception):
    """The newest nft cannot be run; the message has the loader's words."""


def newest() -> list[str]:
    """The command that runs sid's nft: put arguments behind it.

    Raises NftError, and proxymode_testbeds.debs.DebianError where the packages cannot be had.
    """
    root = debs.unpack(SUITE, PACKAGES)
    loaders = sorted(root.glob("usr/lib/*/ld-linux*.so.*"))
    if not loaders:
        raise NftError(f"{root} has no usr/lib/*/ld-linux*.so.*: libc6 of {SUITE} has its loader elsewhere now")
    return [str(loaders[0]), "--library-path", str(loaders[0].parent), str(root / "usr/sbin/nft")]


def version(command: list[str]) -> str:
    """What `nft --version` says. Raises NftError if it does not run."""
    done = subprocess.run([*command, "--version"], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise NftError(f"{command[-1]} does not run ({done.returncode}): {done.stderr.strip()}")
    return done.stdout.strip()


if __name__ == "__main__":
    print(version(newest()))
