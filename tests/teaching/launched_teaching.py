"""Teaching as `torchrun` starts it: `launched_teaching.py KITCHEN OUT`."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from wall_teacher import WallTeacher

from spaceclip_plugin.data.sources.image_folder import FolderData
from spaceclip_plugin.teaching import TeachOptions, making, teach


def main() -> None:
    torch.set_num_threads(1)
    making.SHARD_BYTES = 20_000  # two photos
    kitchen, out = sys.argv[1:]
    teach(FolderData(kitchen), WallTeacher(), Path(out), options=TeachOptions(progress=False))


if __name__ == "__main__":
    main()
