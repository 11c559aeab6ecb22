"""The environment of a script that a test starts: it finds what the test finds."""

from __future__ import annotations

import os
import sys


def script_environment(**changes: str) -> dict[str, str]:
    """This process's environment with its import path, one thread, and changes."""
    path = os.pathsep.join(filter(None, sys.path))
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **changes}
