"""Reads ahead with two workers, tells their process ids, and waits to be killed, or ends if told to; run by a test."""

from __future__ import annotations

import os
import sys
import time

from torch.utils.data import get_worker_info

from spaceclip_plugin.training.reading_ahead import read_ahead


def place(_: int) -> int:
    """The worker that reads the item."""
    return os.getpid() if get_worker_info() is not None else 0


if __name__ == "__main__":
    items = read_ahead(place, range(8), workers=2)
    sys.stdout.write(f"{next(items)} {next(items)}\n")
    sys.stdout.flush()
    if "end" not in sys.argv:
        time.sleep(600)
    # The items are still held: the workers have not been told that nobody wants more of them.
