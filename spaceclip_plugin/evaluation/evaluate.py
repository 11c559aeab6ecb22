"""Score an attached host over a data source."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from spaceclip_plugin.attachment import DepthAttachment
from spaceclip_plugin.data.sample import DepthSource
from spaceclip_plugin.errors import DataError
from spaceclip_plugin.evaluation.metrics import DepthMetrics, mean_metrics
from spaceclip_plugin.evaluation.protocols import Protocol
from spaceclip_plugin.prediction import predict


@dataclass(frozen=True)
class Evaluation:
    """Scores of one run.

    Attributes:
        mean: mean over images of the per-image metrics.
        per_image: name and metrics of each image, in the order of the source.
        protocol: name of the protocol.
        flip: whether each prediction is the mean of two forwards, plain and mirrored.
    """

    mean: DepthMetrics
    per_image: tuple[tuple[str, DepthMetrics], ...]
    protocol: str
    flip: bool


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
    for index in range(len(source)):
        sample = source[index]
        image = protocol.input_image(sample)
        output_hw = protocol.prediction_hw((sample.image.shape[0], sample.image.shape[1]))
        depth = predict(attachment, [image], output_hw=output_hw, flip=flip)
        scored.append((sample.name, protocol.score(depth.depth_m[0].cpu(), sample)))
        if progress is not None:
            progress(1)
    return Evaluation(mean_metrics([metrics for _, metrics in scored]), tuple(scored), protocol.name, flip)
