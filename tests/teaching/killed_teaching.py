"""`spaceclip teach` in shards of two photos, killed at a moment: `killed_teaching.py MOMENT --data … --out …`.

MOMENT is "photo N", while the teacher looks at the N-th, the name of a file, half of which is written then, or "never".
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch

from spaceclip_adapters.teachers.transformers import TransformersTeacher
from spaceclip_plugin.cli import main
from spaceclip_plugin.teaching import making


def killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def killing_at_photo(count: int) -> None:
    look, seen = TransformersTeacher.depth, 0

    def depth(self: TransformersTeacher, photos: Any, intrinsics: Any) -> Any:
        nonlocal seen
        seen += 1
        if seen == count:
            killed()
        return look(self, photos, intrinsics)

    TransformersTeacher.depth = depth  # type: ignore[method-assign]


def killing_at_file(name: str) -> None:
    replace = Path.replace

    def cut(self: Path, target: Any) -> Path:
        if Path(target).name == name:
            os.truncate(self, self.stat().st_size // 2)
            killed()
        return replace(self, target)

    Path.replace = cut  # type: ignore[method-assign, assignment]


if __name__ == "__main__":
    torch.set_num_threads(1)  # the last bits depend on it
    making.SHARD_BYTES = 20_000
    moment, *words = sys.argv[1:]
    if moment.startswith("photo "):
        killing_at_photo(int(moment.removeprefix("photo ")))
    elif moment != "never":
        killing_at_file(moment)
    sys.exit(main(["teach", *words]))
