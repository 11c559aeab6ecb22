"""The folder of one training run: its settings, its record, its checkpoints and its best head."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from safetensors import SafetensorError

from spaceclip_plugin._files import atomic_path, is_temporary, read_json_object, write_json
from spaceclip_plugin.depth import PanelRow, depth_panel, write_png
from spaceclip_plugin.errors import CheckpointError, TrainingError
from spaceclip_plugin.head import CardDetails, DepthHead
from spaceclip_plugin.head.folder import CONFIG_NAME as HEAD_CONFIG_NAME
from spaceclip_plugin.head.folder import WEIGHTS_NAME
from spaceclip_plugin.head.model_card import ModelCard
from spaceclip_plugin.training.run.checkpoint import CheckpointFolder
from spaceclip_plugin.training.run.record import check_same_run

CONFIG_NAME = "config.yaml"
RECORD_NAME = "run.json"
METRICS_NAME = "metrics.jsonl"
CHECKPOINTS_NAME = "checkpoints"
BEST_NAME = "best"
HEAD_NAME = "head"
PICTURE_NAME = "validation.png"
CARD_NAME = "README.md"
CACHE_NAME = "cache"
TAUGHT_PREFIX = "taught-"
"""What folders in the cache are called that hold a teacher's depth, made before the run begins."""

_LOCK_NAME = ".lock"
_NAMES = (
    CONFIG_NAME, RECORD_NAME, METRICS_NAME, CHECKPOINTS_NAME, BEST_NAME, HEAD_NAME, PICTURE_NAME, CARD_NAME,
    CACHE_NAME,
)  # fmt: skip
_THEN = "Free disk space or make the folder writable, then resume the run"


@dataclass(frozen=True)
class FinishedRun:
    """What a run left behind."""

    head: Path
    record: Mapping[str, Any]
    picture: Path

    @classmethod
    def open(cls, path: Path) -> FinishedRun:
        """The run in a folder; TrainingError where there is none, or it is not finished."""
        if not (path / RECORD_NAME).is_file():
            raise TrainingError(f"there is no run in {str(path)!r}: it holds no {RECORD_NAME}")
        record = read_json_object(path / RECORD_NAME)
        if not record.get("finished"):
            raise TrainingError(f"the run in {str(path)!r} is not finished; continue it with --resume")
        return cls(path / HEAD_NAME, record, path / PICTURE_NAME)


def foreign_entries(path: Path) -> list[Path]:
    """What lies in a run's folder, or in that of its head, and no run writes."""
    found = [entry for entry in sorted(path.iterdir()) if entry.name not in {*_NAMES, _LOCK_NAME}]
    for folder in (path / BEST_NAME, path / HEAD_NAME):
        inner = sorted(folder.iterdir()) if folder.is_dir() else []
        found += [entry for entry in inner if entry.name not in (HEAD_CONFIG_NAME, WEIGHTS_NAME)]
    return [entry for entry in found if not is_temporary(entry)]


def _only_taught(entry: Path) -> bool:
    """Whether it is a cache in which there is a teacher's depth and nothing else."""
    return entry.name == CACHE_NAME and all(inner.name.startswith(TAUGHT_PREFIX) for inner in entry.iterdir())


class RunFolder:
    """`config.yaml`, `run.json`, `metrics.jsonl`; `checkpoints/`, `cache/`, `best/` while it lasts; `head/` after,
    with a card. One run at a time: a lock that dies with its process guards it."""

    def __init__(self, path: Path) -> None:
        """Nothing is touched until it is opened."""
        self.path = path
        self.checkpoints = CheckpointFolder(path / CHECKPOINTS_NAME)
        self._lock = FileLock(path / _LOCK_NAME)

    def open(self, record: Mapping[str, object], *, resume: bool, config_yaml: str | None) -> None:
        """Claim the folder of a new run, or reopen that of the same one.
        A new run's folder must be absent or empty: nothing of anyone else's is touched."""
        try:
            if resume:
                self._reopen(record)
            else:
                self._claim(record, config_yaml)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let others use the folder."""
        self._lock.release()

    def cache(self, name: str) -> Path:
        """Where cached features go."""
        return self.path / CACHE_NAME / name

    def write_record(self, record: Mapping[str, object]) -> None:
        """Replace `run.json`; where the disk refuses it, TrainingError, and the older one stays."""
        with self._written(RECORD_NAME) as temporary:
            write_json(temporary, record)

    def write_metrics(self, history: Sequence[Mapping[str, object]]) -> None:
        """Replace `metrics.jsonl`: one line per epoch."""
        lines = [json.dumps(dict(epoch), allow_nan=False) + "\n" for epoch in history]
        with self._written(METRICS_NAME) as temporary:
            temporary.write_text("".join(lines), encoding="utf-8")

    def save_best(self, head: DepthHead) -> None:
        """Keep this head as the best so far; where the disk refuses it, TrainingError, and the older one stays."""
        try:
            head.save_pretrained(self.path / BEST_NAME)
        except CheckpointError as error:
            if isinstance(error.__cause__, (OSError, SafetensorError)):
                raise TrainingError(f"{error}. {_THEN}") from error
            raise

    def load_best(self) -> DepthHead:
        """The best head so far, on the CPU."""
        return DepthHead.from_pretrained(self.path / BEST_NAME)

    def save_picture(self, rows: Sequence[PanelRow]) -> None:
        """Draw what the best head makes of some validation images."""
        with self._written(PICTURE_NAME) as temporary:
            write_png(temporary, depth_panel(rows))

    def save_card(self, head: DepthHead, record: Mapping[str, Any]) -> None:
        """Write what is known of the run's head on a page for people; `push` makes the Hub's anew."""
        parameters = sum(values.numel() for values in head.parameters())
        details = CardDetails(record=record, picture=self.path / PICTURE_NAME)
        card = ModelCard(
            str(self.path / HEAD_NAME), head.config, parameters, details, self.path.resolve().name, PICTURE_NAME
        )
        with self._written(CARD_NAME) as temporary:
            temporary.write_text(card.page(), encoding="utf-8")

    def publish_best(self) -> Path:
        """Make the best head the run's head; returns its folder."""
        head = self.path / HEAD_NAME
        try:
            if head.exists():  # of this run, killed before it could say that it was finished
                shutil.rmtree(head)
            (self.path / BEST_NAME).rename(head)
        except OSError as error:
            raise TrainingError(f"cannot finish the run in {str(self.path)!r}: {error}; resume it") from error
        return head

    def clean(self) -> None:
        """Drop what only an unfinished run needs."""
        for name in (CHECKPOINTS_NAME, CACHE_NAME):
            shutil.rmtree(self.path / name, ignore_errors=True)
        with contextlib.suppress(OSError):  # Windows keeps a file that is locked
            (self.path / _LOCK_NAME).unlink(missing_ok=True)

    def _claim(self, record: Mapping[str, object], config_yaml: str | None) -> None:
        if all((self.path / name).is_file() for name in (RECORD_NAME, _LOCK_NAME)):
            self._take()  # nobody shall be advised to remove the folder of a run that is under way
        self._check_empty()  # before the lock is made, which is a file
        self._take()
        self._check_empty()  # of two runs that start together one waits for nothing
        if config_yaml is not None:
            with self._written(CONFIG_NAME) as temporary:
                temporary.write_text(config_yaml, encoding="utf-8")
        self.write_record({"finished": False, **record})

    def _reopen(self, record: Mapping[str, object]) -> None:
        if not (self.path / RECORD_NAME).is_file():
            raise TrainingError(f"there is no run to continue in {str(self.path)!r}: it holds no {RECORD_NAME}")
        self._take()
        try:
            begun = read_json_object(self.path / RECORD_NAME)
        except CheckpointError as error:
            raise TrainingError(f"the run in {str(self.path)!r} cannot be continued: {error}") from error
        if begun.get("finished"):
            self.clean()  # a kill may have come between
            raise TrainingError(
                f"the run in {str(self.path)!r} is finished; its head is {str(self.path / HEAD_NAME)!r}. "
                "For more epochs start another run"
            )
        check_same_run(self.path, begun, record)
        self._check_checkpoints()

    def _check_checkpoints(self) -> None:
        """A run that was stopped before its first epoch was over may begin anew; one that got further may not."""
        if self.checkpoints.steps():
            return
        metrics = self.path / METRICS_NAME
        traces = [BEST_NAME] if (self.path / BEST_NAME).exists() else []
        traces += [METRICS_NAME] if metrics.is_file() and metrics.stat().st_size else []
        if traces:
            raise CheckpointError(
                f"the run in {str(self.path)!r} cannot be continued: {' and '.join(traces)} tell of a finished epoch, "
                f"but {str(self.checkpoints.path)!r} holds no checkpoint. Bring its checkpoints back, or start a new "
                "run in another folder, or in this one once it is removed"
            )

    def _check_empty(self) -> None:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            held = sorted(
                entry.name for entry in self.path.iterdir() if entry.name != _LOCK_NAME and not _only_taught(entry)
            )
        except OSError as error:
            raise TrainingError(f"cannot use {str(self.path)!r} for a run: {error}") from error
        if held:
            what = "already holds a run" if RECORD_NAME in held else f"is not empty (it holds {held[0]!r})"
            then = "continue it with --resume, " if RECORD_NAME in held else ""
            raise TrainingError(f"{str(self.path)!r} {what}; {then}choose another folder, or remove it first")

    def _take(self) -> None:
        if self._lock.is_locked:
            return
        try:
            self._lock.acquire(timeout=0)
        except Timeout as error:
            raise TrainingError(
                f"another process is training in {str(self.path)!r}; wait for it, or choose another folder"
            ) from error
        except OSError as error:
            raise TrainingError(f"cannot use {str(self.path)!r} for a run: {error}") from error

    @contextlib.contextmanager
    def _written(self, name: str) -> Iterator[Path]:
        """A temporary file that becomes one of the run's."""
        try:
            with atomic_path(self.path / name) as temporary:
                yield temporary
        except OSError as error:
            raise TrainingError(
                f"cannot write {str(self.path / name)!r}: {error.strerror or error}. {_THEN}"
            ) from error
