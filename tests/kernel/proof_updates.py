"""At least a million first packets under each kind of update; prints a table of what became of them.

    python tests/kernel/proof_updates.py [PACKETS] [WORD...]

Exit code 1 if one was lost. With words only the kinds whose family and name contain one of them, as `ip6 sticky`. Takes
about half a minute a kind on two CPUs, and a minute in an emulated guest, where the kernel makes the packets
(pktgen.py).
"""

from __future__ import annotations

import platform
import sys
import time

from flood import cases, fleet, generated, run

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
        for case in chosen:
            began = time.monotonic()
            result = run(topology, case, packets, max(MINIMUM_SECONDS, packets * SECONDS_A_PACKET))
            seconds = time.monotonic() - began
            lost += result.missed
            family = {"ip": "IPv4", "ip6": "IPv6"}[case.family]
            counts = f"{result.updates:,} | {result.hit + result.missed:,} | {result.missed} | {seconds:.0f}"
            say(f"| {case.name} | {family} | {counts} |")
    return 1 if lost else 0


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
