"""`spaceclip train …` in which a signal reaches the whole process group after a step: `signalled_run.py 3 train …`."""

from __future__ import annotations

import os
import signal
import sys
import time

from spaceclip_plugin.cli import main
from spaceclip_plugin.training.optimizer import HeadOptimizer

if __name__ == "__main__":
    step, update = int(sys.argv[1]), HeadOptimizer._update

    def signalling(self: HeadOptimizer) -> None:
        update(self)
        if self.step == step:
            os.killpg(0, signal.SIGTERM)
            time.sleep(0.5)  # for a worker that would die of it

    HeadOptimizer._update = signalling  # type: ignore[method-assign]
    sys.exit(main(sys.argv[2:]))
