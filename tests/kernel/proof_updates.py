"""At least a million first packets under each kind of update; prints a table of what became of them.

    python tests/kernel/proof_updates.py [PACKETS] [WORD...]

Exit code 1 if one was lost, or if none was where updates are made as they must not be (the control: the first lines of
the table). With words only the kinds whose family and name contain one of them, as `ip6 sticky`. Takes half a minute a
kind on two CPUs, and a minute in an emulated guest, where the kernel makes the packets (pktgen.py).
"""

from __future__ import annotations

import platform
import sys
import time
from typing import TYPE_CHECKING

from flood import careless, cases, control, fleet, generated, run

if TYPE_CHECKING:
    from flood import Case, Result
    from proxymode_testbeds.topology import Topology

CONTROL_PACKETS = 20_000
SECONDS_A_PACKET = 0.01  # patience
MINIMUM_SECONDS = 120.0


def main() -> int:
    packets = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    words = sys.argv[2:]
    chosen = [case for case in cases() if not words or any(word in f"{case.family} {case.name}" for word in words)]
    by = "the kernel's packet generator" if generated() else "a packet socket"
    say(f"Linux {platform.release()}, at least {packets:,} first packets a kind, by {by}\n")
    say("| kind of update | family | updates | first packets | lost | seconds |")
    say("|---|---|---:|---:|---:|---:|")
    lost = 0
    with fleet() as topology:
        with careless():
            controls = [tell(topology, control(family), CONTROL_PACKETS) for family in ("ip", "ip6")]
        for case in chosen:
            lost += tell(topology, case, packets).missed
    return 1 if lost or not all(one.missed for one in controls) else 0


def tell(topology: Topology, case: Case, packets: int) -> Result:
    """Run a case and print its line."""
    began = time.monotonic()
    result = run(topology, case, packets, max(MINIMUM_SECONDS, packets * SECONDS_A_PACKET))
    seconds = time.monotonic() - began
    family = {"ip": "IPv4", "ip6": "IPv6"}[case.family]
    counts = f"{result.updates:,} | {result.hit + result.missed:,} | {result.missed} | {seconds:.0f}"
    say(f"| {case.name} | {family} | {counts} |")
    return result


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
