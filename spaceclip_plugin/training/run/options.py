"""How a run is carried out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from spaceclip_plugin import _checks
from spaceclip_plugin.training.processes import check_tracker


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """How a run is carried out; nothing of it changes the head that comes out.

    Attributes:
        resume: continue the run in the folder, with the same host, head, recipe and data.
        workers: processes that read images or features ahead.
        save_every: steps between two checkpoints, besides one after every epoch; None: only those.
        cache: folder of feature caches that outlive the run; None keeps one in the run's folder while the run lasts.
        log_with: a tracker, one of `TRACKERS`; None: only the run's own files.
        config_yaml: kept as `config.yaml` in the run's folder.
        progress: show progress bars on standard error, in the main process.

    Raises:
        ConfigError: a number out of bounds, or a tracker that is unknown or not installed.

    Example:
        >>> RunOptions(workers=4, save_every=500).resume
        False
    """

    resume: bool = False
    workers: int = 0
    save_every: int | None = None
    cache: Path | None = None
    log_with: str | None = None
    config_yaml: str | None = None
    progress: bool = True

    def __post_init__(self) -> None:
        _checks.whole("workers", self.workers, 0, 1_024)
        if self.save_every is not None:
            _checks.whole("save_every", self.save_every, 1, 10**9)
        check_tracker(self.log_with)
