"""A process that switches and is killed, by itself and with SIGKILL, after the step that it is told.

switch_victim.py STATE_DIR MODE STEP < pickled (config, state)
"""

from __future__ import annotations

import os
import pickle
import signal
import sys
from pathlib import Path

from proxymode_agent.switch import StepRecord, Switcher
from proxymode_api.modes import Mode


def main() -> None:
    folder, mode, step = sys.argv[1:]
    config, state = pickle.load(sys.stdin.buffer)

    def die(record: StepRecord) -> None:
        if record.name == step:
            os.kill(os.getpid(), signal.SIGKILL)

    Switcher(config, Path(folder)).switch(Mode(mode), state, die)


if __name__ == "__main__":
    main()
