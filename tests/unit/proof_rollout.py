"""The exhaustive search of `test_rollout_exhaustive` with more faults and commands, of every kind, in each model.

    python tests/unit/proof_rollout.py [FAULTS COMMANDS]...

By default two faults, two commands, and one of each. Exit code 1 where a promise is broken, with the shortest way
there. Takes more than an hour on one CPU.
"""

from __future__ import annotations

import sys
import time
from dataclasses import replace

from rollout_space import COMMANDS, FAULTS, GATE_FAULTS, Chances
from test_rollout_exhaustive import MODELS, Search

DEPTHS = (Chances(2, 0), Chances(0, 2), Chances(1, 1))


def main() -> int:
    given = [int(argument) for argument in sys.argv[1:]]
    depths = [Chances(*pair) for pair in zip(given[::2], given[1::2], strict=True)] or DEPTHS
    broken = 0
    for depth in depths:
        for name, model in MODELS.items():
            search, began = (
                Search(replace(model, chances=depth, faults=FAULTS | GATE_FAULTS.keys(), commands=COMMANDS)),
                time.monotonic(),
            )
            try:
                search.run()
            except AssertionError as error:
                broken += 1
                sys.stdout.write(f"BROKEN: {error}\n")
            seconds = time.monotonic() - began
            sys.stdout.write(f"{depth.faults} faults, {depth.commands} commands, {name}: {search.summary()}, ")
            sys.stdout.write(f"{seconds:.0f} s\n")
            sys.stdout.flush()
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
