"""The folder of one training run: its settings, its record, its checkpoints and its best head."""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from safetensors import SafetensorError

from spaceclip_plugin._files import atomic_path, is_temporary, read_json_object, write_json
from spaceclip_plugin.depth import PanelRow, depth_panel, write_png
from spaceclip_plugin.errors import CheckpointError, TrainingError
from spaceclip_plugin.head.depth_head import DepthHead
from spaceclip_plugin.head.folder import CONFIG_NAME as HEAD_CONFIG_NAME
from spaceclip_plugin.head.folder import WEIGHTS_NAME
from spaceclip_plugin.training.run.checkpoint import CheckpointFolder

CONFIG_NAME = "config.yaml"
RECORD_NAME = "run.json"
METRICS_NAME = "metrics.jsonl"
CHECKPOINTS_NAME = "checkpoints"
BEST_NAME = "best"
HEAD_NAME = "head"
PICTURE_NAME = "validation.png"
CACHE_NAME = "cache"
LASTING = ("recipe", "protocol", "protocol_settings", "head", "tower", "host_digest_before", "data", "shares")
"""What a continued run must have in common with what was begun."""

SHOULD_LAST = ("device", "torch", "threads")
"""What the last bits depend on, too."""

_LOCK_NAME = ".lock"
_FLAGS = {"train": "data", "validation": "val", "test": "test"}
_MOST_SHOWN = 120
_THEN = "Free disk space or make the folder writable, then resume the run"

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class FinishedRun:
    """What a run left behind.

    Attributes:
        head: folder of its head.
        record: what `run.json` says.
        picture: `validation.png`.
    """

    head: Path
    record: Mapping[str, Any]
    picture: Path

    @classmethod
    def open(cls, path: Path) -> FinishedRun:
        """The run in a folder.

        Raises:
            TrainingError: there is none, or it is not finished.
        """
        if not (path / RECORD_NAME).is_file():
            raise TrainingError(f"there is no run in {str(path)!r}: it holds no {RECORD_NAME}")
        record = read_json_object(path / RECORD_NAME)
        if not record.get("finished"):
            raise TrainingError(f"the run in {str(path)!r} is not finished; continue it with --resume")
        return cls(path / HEAD_NAME, record, path / PICTURE_NAME)


def code_of(record: Mapping[str, object]) -> str:
    """Which code a run was begun with, in words."""
    version, digest = record.get("spaceclip_plugin"), record.get("code")
    if version is None:
        return "a version of spaceclip_plugin that it does not tell"
    return f"spaceclip_plugin {version} (code {str(digest)[:12]}…)"


def foreign_entries(path: Path) -> list[Path]:
    """What lies in a run's folder, or in that of its head, and no run writes."""
    names = {CONFIG_NAME, RECORD_NAME, METRICS_NAME, PICTURE_NAME, CHECKPOINTS_NAME, BEST_NAME, HEAD_NAME, CACHE_NAME}
    found = [entry for entry in sorted(path.iterdir()) if entry.name not in {*names, _LOCK_NAME}]
    for folder in (path / BEST_NAME, path / HEAD_NAME):
        inner = sorted(folder.iterdir()) if folder.is_dir() else []
        found += [entry for entry in inner if entry.name not in (HEAD_CONFIG_NAME, WEIGHTS_NAME)]
    return [entry for entry in found if not is_temporary(entry)]


class RunFolder:
    """`config.yaml`, `run.json` and `metrics.jsonl`; `checkpoints/`, `cache/`, `best/` while it lasts, `head/` after.

    And `validation.png`, where the best head's depth of some validation images can be looked at.

    One run at a time: a lock that dies with its process guards it.

    Attributes:
        path: the folder.
        checkpoints: the run's full states.
    """

    def __init__(self, path: Path) -> None:
        """Nothing is touched until it is opened."""
        self.path = path
        self.checkpoints = CheckpointFolder(path / CHECKPOINTS_NAME)
        self._lock = FileLock(path / _LOCK_NAME)

    def open(self, record: Mapping[str, object], *, resume: bool, config_yaml: str | None) -> None:
        """Claim the folder of a new run, or reopen that of the same one.

        A new run's folder is made if absent, and must be empty: nothing of anyone else's is touched.

        Args:
            record: what `run.json` says of the run from its start on.
            resume: continue the run in the folder.
            config_yaml: kept as `config.yaml` of a new run.

        Raises:
            TrainingError: another process trains there; a new run's folder holds something or cannot be made; there is
                no run to continue, it is finished, or it had another host, head, recipe or data.
            CheckpointError: the run to continue has lost its checkpoints.
        """
        with ExitStack() as undo:
            undo.callback(self.release)
            if resume:
                self._reopen(record)
            else:
                self._claim(record, config_yaml)
            undo.pop_all()

    def release(self) -> None:
        """Let others use the folder."""
        self._lock.release()

    def cache(self, name: str) -> Path:
        """Where cached features go."""
        return self.path / CACHE_NAME / name

    def write_record(self, record: Mapping[str, object]) -> None:
        """Replace `run.json`.

        Raises:
            TrainingError: the disk refuses it; the older one stays.
        """
        with self._written(RECORD_NAME) as temporary:
            write_json(temporary, record)

    def write_metrics(self, history: Sequence[Mapping[str, object]]) -> None:
        """Replace `metrics.jsonl`: one line per epoch."""
        lines = [json.dumps(dict(epoch), allow_nan=False) + "\n" for epoch in history]
        with self._written(METRICS_NAME) as temporary:
            temporary.write_text("".join(lines), encoding="utf-8")

    def save_best(self, head: DepthHead) -> None:
        """Keep this head as the best so far.

        Raises:
            TrainingError: the disk refuses it; the older one stays.
            CheckpointError: a weight is not finite.
        """
        try:
            head.save_pretrained(self.path / BEST_NAME)
        except CheckpointError as error:
            if isinstance(error.__cause__, (OSError, SafetensorError)):
                raise TrainingError(f"{error}. {_THEN}") from error
            raise

    def save_picture(self, rows: Sequence[PanelRow]) -> None:
        """Draw what the best head makes of some validation images."""
        with self._written(PICTURE_NAME) as temporary:
            write_png(temporary, depth_panel(rows))

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
            self._take()  # of a run that is under way nobody shall be told to remove it
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
        self._check_same(record)
        self._check_checkpoints()

    def _check_checkpoints(self) -> None:
        """A run that was stopped before its first epoch was over may begin anew; one that got further may not."""
        if self.checkpoints.steps():
            return
        metrics = self.path / METRICS_NAME
        told = [BEST_NAME] if (self.path / BEST_NAME).exists() else []
        told += [METRICS_NAME] if metrics.is_file() and metrics.stat().st_size else []
        if told:
            raise CheckpointError(
                f"the run in {str(self.path)!r} cannot be continued: {' and '.join(told)} tell of a finished epoch, "
                f"but {str(self.checkpoints.path)!r} holds no checkpoint. Bring its checkpoints back, or start a new "
                "run in another folder, or in this one once it is removed"
            )

    def _check_same(self, record: Mapping[str, object]) -> None:
        try:
            previous = read_json_object(self.path / RECORD_NAME)
        except CheckpointError as error:
            raise TrainingError(f"the run in {str(self.path)!r} cannot be continued: {error}") from error
        if previous.get("finished"):
            self.clean()  # a kill may have come between
            raise TrainingError(
                f"the run in {str(self.path)!r} is finished; its head is {str(self.path / HEAD_NAME)!r}. "
                "For more epochs start another run"
            )
        if previous.get("host_digest_after") not in (None, previous.get("host_digest_before")):
            raise TrainingError(
                f"the run in {str(self.path)!r} cannot be continued: its host changed while a head was trained on it. "
                "Find what changed it, then start another run"
            )
        ours = json.loads(json.dumps(record))
        previous, ours = comparable(previous), comparable(ours)
        for key in LASTING:
            if previous.get(key) != ours[key]:
                found = _differences(key, previous.get(key), ours[key])
                differing = "; ".join(_told(name, (old, previous), (new, ours)) for name, old, new in found)
                raise TrainingError(
                    f"the run in {str(self.path)!r} cannot be continued: {differing}. Give what it was started with, "
                    "or start another run"
                )
        for key in SHOULD_LAST:
            if previous.get(key) != ours[key]:
                _logger.warning(
                    "the run was begun with %s %s and goes on with %s: its last bits may differ from those of an "
                    "uninterrupted one", key, previous.get(key), ours[key],
                )  # fmt: skip
        begun, now = code_of(previous), code_of(ours)
        if begun != now:
            _logger.warning(
                "the run was begun with %s and goes on with %s: it may end otherwise than an uninterrupted one. "
                "For the same bits resume it with the code it was begun with", begun, now,
            )  # fmt: skip

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

    def _check_empty(self) -> None:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            held = sorted(entry.name for entry in self.path.iterdir() if entry.name != _LOCK_NAME)
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


def comparable(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record without what says the same in two ways: the fingerprint in the head's config is of the host, whose
    digest is compared, and its last digits may hang on the device; a format only says how the config is written."""
    head = record.get("head")
    if not isinstance(head, Mapping):
        return dict(record)
    kept = {key: value for key, value in head.items() if key not in ("format_version", "tower_fingerprint")}
    return {**record, "head": kept}


def _differences(name: str, before: object, now: object) -> Iterator[tuple[str, object, object]]:
    """(name, before, now) of every setting within a setting that is not as it was."""
    if not (isinstance(before, dict) and isinstance(now, dict)):
        yield name, before, now
        return
    for key in dict.fromkeys([*before, *now]):
        if before.get(key) != now.get(key):
            yield from _differences(f"{name}.{key}", before.get(key), now.get(key))


def _told(name: str, before: tuple[object, Mapping[str, Any]], now: tuple[object, Mapping[str, Any]]) -> str:
    """A difference in words, from both values and the records they are of."""
    if not name.startswith("data."):
        return f"its {name} was {_shown(before[0], now[0])}, now it is {_shown(now[0], before[0])}"
    source = name.removeprefix("data.")
    lists = [
        f"{record.get('details', {}).get(_FLAGS.get(source)) or 'its source'} with SHA-256 {str(digest)[:12]}…"
        if digest is not None
        else "none"
        for digest, record in (before, now)
    ]
    return f"its {source} data was {lists[0]}, now it is {lists[1]}: other images, depth or order"


def _shown(value: object, other: object) -> str:
    """A value of the record for a message; of a long one, what it has from where it differs from another one."""
    text, theirs = (json.dumps(one, ensure_ascii=False) for one in (value, other))
    pairs = zip(text, theirs, strict=False)
    same = next((i for i, (mine, yours) in enumerate(pairs) if mine != yours), min(len(text), len(theirs)))
    start = 0 if len(text) <= _MOST_SHOWN else max(0, same - 20)
    end = start + _MOST_SHOWN
    return ("…" if start else "") + text[start:end] + ("…" if end < len(text) else "")
