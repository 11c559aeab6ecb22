"""Score an attached host over a data source."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from spaceclip_plugin.attachment import DepthAttachment
from spaceclip_plugin.data.sample import DepthSource
from spaceclip_plugin.errors import DataError
from spaceclip_plugin.evaluation.calibration import LEVELS, coverage, normalised_residuals
from spaceclip_plugin.evaluation.metrics import DepthMetrics, mean_metrics
from spaceclip_plugin.evaluation.protocols import Compared, Protocol
from spaceclip_plugin.prediction import predict


@dataclass(frozen=True)
class Evaluation:
    """Scores of one run.

    Attributes:
        mean: mean over images of the per-image metrics.
        per_image: name and metrics of each image, in the order of the source.
        protocol: name of the protocol.
        flip: whether each prediction is the mean of two forwards, plain and mirrored.
        coverage: level → share of the pixels whose true depth lies in the interval of that level (see `calibration`),
            mean over images; None where the head predicts no uncertainty, or with `flip`.
    """

    mean: DepthMetrics
    per_image: tuple[tuple[str, DepthMetrics], ...]
    protocol: str
    flip: bool
    coverage: dict[float, float] | None = None


def evaluate(
    attachment: DepthAttachment,
    source: DepthSource,
    *,
    protocol: Protocol,
    flip: bool = False,
    progress: Callable[[int], object] | None = None,
) -> Evaluation:
    """Predict every image of `source` alone and score it; scale is metric, never aligned.

    Args:
        progress: called with 1 after each image.

    Raises:
        DataError: an unreadable sample, one without a valid pixel under the protocol, or an empty source.
        CaptureError: the host's activations are not finite.
    """
    if len(source) == 0:
        raise DataError("nothing to evaluate: the source is empty")
    scored = []
    covered: list[dict[float, float]] = []
    for index in range(len(source)):
        sample = source[index]
        image = protocol.input_image(sample)
        output_hw = protocol.prediction_hw((sample.image.shape[0], sample.image.shape[1]))
        depth = predict(attachment, [image], output_hw=output_hw, flip=flip)
        scored.append((sample.name, protocol.score(depth.depth_m[0].cpu(), sample)))
        if depth.uncertainty_m is not None and not flip:
            maps_m = torch.cat([depth.depth_m, depth.uncertainty_m])
            covered.append(_covered(protocol.compared(maps_m, sample)))
        if progress is not None:
            progress(1)
    mean = mean_metrics([metrics for _, metrics in scored])
    coverages = {level: sum(one[level] for one in covered) / len(covered) for level in LEVELS} if covered else None
    return Evaluation(mean, tuple(scored), protocol.name, flip, coverages)


def _covered(compared: Compared) -> dict[float, float]:
    """Coverage of one image by level, of its depth and uncertainty."""
    depth_m, uncertainty_m = compared.maps_m
    residuals = normalised_residuals(depth_m, uncertainty_m, compared.target_m, valid=compared.valid)
    return {level: coverage(residuals, level) for level in LEVELS}
