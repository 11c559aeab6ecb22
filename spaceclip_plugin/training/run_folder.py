"""The folder of one training run: its record, its metrics, its best head so far and the cache while it lasts."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

from spaceclip_plugin.errors import TrainingError
from spaceclip_plugin.files import write_json
from spaceclip_plugin.head.depth_head import DepthHead

RECORD_NAME = "run.json"
METRICS_NAME = "metrics.jsonl"
BEST_NAME = "best"
HEAD_NAME = "head"
CACHE_NAME = "cache"


class RunFolder:
    """`run.json`, `metrics.jsonl`, `best/` while the run lasts and `head/` when it is done."""

    def __init__(self, path: Path) -> None:
        """Claim a folder for a run; it is made if absent, and must be empty: nothing of anyone else's is touched.

        Raises:
            TrainingError: the folder holds something, another run claims it at this moment, or it cannot be made.
        """
        try:
            path.mkdir(parents=True, exist_ok=True)
            held = sorted(entry.name for entry in path.iterdir())
            if held:
                what = "already holds a run" if RECORD_NAME in held else f"is not empty (it holds {held[0]!r})"
                raise TrainingError(f"{str(path)!r} {what}; choose another folder, or remove it first")
            (path / CACHE_NAME).mkdir()  # fails for the second of two runs that start together
        except OSError as error:
            raise TrainingError(f"cannot use {str(path)!r} for a run: {error}") from error
        self.path = path

    def cache(self, name: str) -> Path:
        """A new empty folder for cached features."""
        folder = self.path / CACHE_NAME / name
        folder.mkdir()
        return folder

    def write_record(self, record: Mapping[str, object]) -> None:
        """Replace `run.json`."""
        write_json(self.path / RECORD_NAME, record)

    def log(self, metrics: Mapping[str, object]) -> None:
        """Append one line to `metrics.jsonl`."""
        with (self.path / METRICS_NAME).open("a", encoding="utf-8") as file:
            file.write(json.dumps(metrics, allow_nan=False) + "\n")

    def save_best(self, head: DepthHead) -> None:
        """Keep this head as the best so far."""
        head.save_pretrained(self.path / BEST_NAME)

    def best(self) -> DepthHead:
        """The best head so far, on the CPU and in eval mode."""
        return DepthHead.from_pretrained(self.path / BEST_NAME)

    def finish(self) -> Path:
        """Make the best head the run's head; returns its folder."""
        (self.path / BEST_NAME).rename(self.path / HEAD_NAME)
        return self.path / HEAD_NAME

    def drop_cache(self) -> None:
        """Remove cached features; they are read by this run alone."""
        shutil.rmtree(self.path / CACHE_NAME, ignore_errors=True)
