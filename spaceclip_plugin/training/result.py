"""What a training run gave."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spaceclip_plugin._digest import module_digest
from spaceclip_plugin.data import DepthSource
from spaceclip_plugin.evaluation import Calibration, DepthMetrics
from spaceclip_plugin.head import DepthHead


@dataclass(frozen=True, eq=False)
class TrainingResult:
    """What a run gave, as `DepthTrainer.fit` returns it.

    Attributes:
        head: the best head, in eval mode; the same as in `folder`.
        folder: where it was saved.
        best_epoch: epoch (from 1) it comes from.
        validation: its mean metrics on the validation source.
        host_digest: SHA-256 of the host's parameters and buffers, the same before and after.
        seconds_caching, seconds_training: wall-clock times since the run was started or continued; training includes
            validation.
        calibration: how the head's uncertainty was rescaled; None where it predicts none.
        test: mean metrics on the test source, which nothing was chosen on; None where there is none.
        familiarity: how many training images the head knows their like by ("images"), and how familiar it finds the
            validation images: the share that it does not know ("validation_unfamiliar"), and quantiles. None where the
            training images were too few to learn from.

    Example:
        >>> from pathlib import Path
        >>> from spaceclip_plugin.evaluation import DepthMetrics
        >>> from spaceclip_plugin.head import DepthHead, DepthHeadConfig
        >>> from spaceclip_plugin.training import TrainingResult
        >>> options = {"taps": (1, 2), "channels": (8,), "convolutions": (1,)}
        >>> head = DepthHead(DepthHeadConfig("tap-mixer", options, width=16, blocks=2)).eval()
        >>> metrics = DepthMetrics(0.08, 0.04, 0.33, 0.11, 0.04, 10.2, 0.93, 0.98, 0.99)
        >>> result = TrainingResult(head, Path("head"), 3, metrics, "5f1e", seconds_caching=9.5, seconds_training=61)
        >>> result.best_epoch, result.validation.abs_rel, result.test is None
        (3, 0.08, True)
    """

    head: DepthHead
    folder: Path
    best_epoch: int
    validation: DepthMetrics
    host_digest: str
    seconds_caching: float
    seconds_training: float
    calibration: Calibration | None = None
    test: DepthMetrics | None = None
    familiarity: Mapping[str, Any] | None = None


def outcome(result: TrainingResult, sources: Mapping[str, DepthSource], continued_at: int | None) -> dict[str, Any]:
    """What `run.json` says more when the run is done."""
    return {
        "host_digest_after": result.host_digest,
        "head": result.head.config.to_dict(),
        "head_digest": module_digest(result.head),
        **{f"{name}_images": len(source) for name, source in sources.items()},
        "best_epoch": result.best_epoch,
        "validation": dataclasses.asdict(result.validation),
        "uncertainty": None if result.calibration is None else dataclasses.asdict(result.calibration),
        "familiarity": result.familiarity,
        "test": None if result.test is None else dataclasses.asdict(result.test),
        "continued_at_step": continued_at,
        "seconds_caching": round(result.seconds_caching, 1),
        "seconds_training": round(result.seconds_training, 1),
    }
