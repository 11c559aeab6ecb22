"""Score an attached host over a data source."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from spaceclip_plugin.attach import DepthAttachment
from spaceclip_plugin.data import DepthSample, DepthSource
from spaceclip_plugin.data.sample import has_exact_depth
from spaceclip_plugin.depth.depth_map import UNFAMILIAR, UNKNOWN
from spaceclip_plugin.errors import CaptureError, ConfigError, DataError
from spaceclip_plugin.evaluation.calibration import LEVELS, coverage, normalised_residuals
from spaceclip_plugin.evaluation.edges import EdgeMetrics, edge_metrics
from spaceclip_plugin.evaluation.metrics import DepthMetrics, mean_metrics, metrics_deviation
from spaceclip_plugin.evaluation.prediction import predict, seen_pixels
from spaceclip_plugin.evaluation.protocol import Compared, Protocol


@dataclass(frozen=True)
class ImageScore:
    """Scores of one image, over its valid pixels."""

    name: str
    metrics: DepthMetrics
    valid_pixels: int
    unseen_pixels: int = 0  # more that have ground truth, where the tower reads nothing; they do not count
    familiarity: float | None = None  # see `DepthMap.familiarity`
    lens: str = UNKNOWN  # see `DepthMap.lens`
    edges: EdgeMetrics | None = None  # None where they were not looked at, or the truth has none


@dataclass(frozen=True, eq=False)
class WorstImage:
    """One of the images with the highest AbsRel, with all that a picture of it needs."""

    name: str
    metrics: DepthMetrics
    image: npt.NDArray[np.uint8]  # (h, w, 3) RGB, the whole photo, also where the host saw a crop of it
    prediction_m: npt.NDArray[np.float32]  # (H, W) as scored, resized and clipped; 0 outside what the host saw
    target_m: npt.NDArray[np.float32]  # (H, W), 0 where unknown
    valid: npt.NDArray[np.bool_]  # (H, W), the pixels that count


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Scores of one run, as `evaluate` gives them.

    Attributes:
        mean: mean over images of the per-image metrics.
        standard_deviation: over images of the same (n - 1); 0 for one image.
        per_image: scores of each image, in the order of the source.
        protocol: name of the protocol.
        flip: whether each prediction is the mean of two forwards, plain and mirrored.
        coverage: level → share of the pixels whose true depth lies in the interval of that level (see `calibration`),
            mean over images; None where the head predicts no uncertainty, or with `flip`.
        worst: the images of highest AbsRel, highest first; as many as were asked for.
        edges: mean over the images that have edges of how sharp depth is there; None where there is none.
        images_with_edges: how many that is; None where edges were not looked at.

    Example:
        >>> import torch
        >>> from spaceclip_plugin.evaluation import Evaluation, depth_metrics
        >>> truth = torch.full((4, 4), 2.0)
        >>> metrics = depth_metrics(1.5 * truth, truth, valid=truth > 0)
        >>> scores = {"mean": metrics, "standard_deviation": metrics, "per_image": ()}
        >>> Evaluation(**scores, protocol="whole-image", flip=False).mean.abs_rel
        0.5
    """

    mean: DepthMetrics
    standard_deviation: DepthMetrics
    per_image: tuple[ImageScore, ...]
    protocol: str
    flip: bool
    coverage: dict[float, float] | None = None
    worst: tuple[WorstImage, ...] = ()
    edges: EdgeMetrics | None = None
    images_with_edges: int | None = None

    @property
    def lenses(self) -> dict[str, int]:
        """How many images were scored in whose metres, by `DepthMap.lens`."""
        return dict(Counter(score.lens for score in self.per_image))

    @property
    def familiarity(self) -> float | None:
        """Mean over images; None where the head does not tell it."""
        told = self._told
        return sum(told) / len(told) if told else None

    @property
    def unfamiliar(self) -> float | None:
        """Share of the images that are unlike those of the training; None where the head does not tell it."""
        told = self._told
        return sum(share < UNFAMILIAR for share in told) / len(told) if told else None

    @property
    def _told(self) -> list[float]:
        return [score.familiarity for score in self.per_image if score.familiarity is not None]


def evaluate(
    attachment: DepthAttachment,
    source: DepthSource,
    *,
    protocol: Protocol,
    flip: bool = False,
    keep_worst: int = 0,
    edges: bool | None = None,
    progress: Callable[[int], object] | None = None,
) -> Evaluation:
    """Predict every image of `source` alone and score it; scale is metric, never aligned.

    Images with intrinsics are scored in metres of their camera, others in those of the camera that the head assumes.

    Photos are prepared as the host prepares its cameras' images (`DepthAttachment.preparation`), and depth is scored
    over the photo: it is what `read` and `DepthMap.in_camera` give of the same images.

    What a tower never reads (a strip where its patches do not divide its image, or what is cut off before it) is left
    out and counted.

    Args:
        keep_worst: how many of the images with the highest AbsRel to keep in memory and return.
        edges: whether to look at how sharp depth is, which says something only of data whose depth is exact at every
            pixel, see `edge_metrics`. None: where the source says so of itself, see `DepthSource`.
        progress: called with 1 after each image.

    Raises:
        ConfigError: `keep_worst` is negative.
        DataError: an unreadable sample, one without a valid pixel under the protocol, or an empty source.
        CaptureError: the host's activations are not finite; names the sample.

    Example:
        >>> import numpy as np
        >>> from transformers import CLIPVisionConfig, CLIPVisionModel
        >>> from spaceclip_plugin import attach_depth_head
        >>> from spaceclip_plugin.data import DepthSample
        >>> from spaceclip_plugin.evaluation import evaluate, get_protocol
        >>> sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4, "num_attention_heads": 2}
        >>> host = CLIPVisionModel(CLIPVisionConfig(**sizes, image_size=32, patch_size=8)).eval()
        >>> photo, depth_m = np.zeros((48, 64, 3), np.uint8), np.full((48, 64), 1.5, np.float32)
        >>> samples = [DepthSample(photo, depth_m, f"photo {number}") for number in range(2)]
        >>> with attach_depth_head(host) as attachment:
        ...     result = evaluate(attachment, samples, protocol=get_protocol("whole-image"))
        >>> [score.name for score in result.per_image], result.mean.abs_rel > 0, result.standard_deviation.abs_rel
        (['photo 0', 'photo 1'], True, 0.0)
    """
    if keep_worst < 0:
        raise ConfigError(f"keep_worst is a number of images, 0 or more, got {keep_worst}")
    if len(source) == 0:
        raise DataError("nothing to evaluate: the source is empty")
    looks_at_edges = has_exact_depth(source) if edges is None else edges
    scores: list[ImageScore] = []
    covered: list[dict[float, float]] = []
    worst: list[WorstImage] = []
    for index in range(len(source)):
        sample = source[index]
        image = protocol.input_image(sample)
        output_hw = protocol.prediction_hw((sample.depth_m.shape[0], sample.depth_m.shape[1]))
        try:
            intrinsics = protocol.input_intrinsics(sample)
            depth = predict(attachment, [image], output_hw=output_hw, flip=flip, intrinsics=intrinsics)
        except CaptureError as error:
            raise CaptureError(f"{sample.name}: {error}") from error
        image_hw = (image.shape[0], image.shape[1])
        seen = seen_pixels(attachment, image_hw, output_hw=output_hw, flip=flip)
        metrics = protocol.score(depth.depth_m[0].cpu(), sample, seen=seen)
        uncertainty_m = None if flip else depth.uncertainty_m
        maps_m = depth.depth_m if uncertainty_m is None else torch.cat([depth.depth_m, uncertainty_m])
        compared = protocol.compared(maps_m, sample, seen=seen)
        if uncertainty_m is not None:
            covered.append(_covered(compared))
        familiarity = None if depth.familiarity is None else float(depth.familiarity[0])
        pixels = (int(compared.valid.sum()), compared.unseen_pixels)
        sharpness = _sharpness(compared, protocol) if looks_at_edges else None
        scores.append(ImageScore(sample.name, metrics, *pixels, familiarity, depth.lens, sharpness))
        if len(worst) < keep_worst or (worst and metrics.abs_rel > worst[-1].metrics.abs_rel):
            worst.append(_kept(sample, metrics, compared, protocol))
            worst.sort(key=lambda kept: -kept.metrics.abs_rel)  # stable: of equal images, the first stays first
            del worst[keep_worst:]
        if progress is not None:
            progress(1)
    per_image = [score.metrics for score in scores]
    sharp = [score.edges for score in scores if score.edges is not None]
    coverages = {level: sum(one[level] for one in covered) / len(covered) for level in LEVELS} if covered else None
    return Evaluation(
        mean=mean_metrics(per_image),
        standard_deviation=metrics_deviation(per_image),
        per_image=tuple(scores),
        protocol=protocol.name,
        flip=flip,
        coverage=coverages,
        worst=tuple(worst),
        edges=mean_metrics(sharp) if sharp else None,
        images_with_edges=len(sharp) if looks_at_edges else None,
    )


def _covered(compared: Compared) -> dict[float, float]:
    """Coverage of one image by level, of its depth and uncertainty."""
    depth_m, uncertainty_m = compared.maps_m
    residuals = normalised_residuals(depth_m, uncertainty_m, compared.target_m, valid=compared.valid)
    return {level: coverage(residuals, level) for level in LEVELS}


def _sharpness(compared: Compared, protocol: Protocol) -> EdgeMetrics | None:
    """Of the depth as scored."""
    return edge_metrics(_clipped(compared, protocol), compared.target_m, valid=compared.valid)


def _clipped(compared: Compared, protocol: Protocol) -> Tensor:
    return compared.maps_m[0].clamp(protocol.min_depth_m, protocol.max_depth_m)


def _kept(sample: DepthSample, metrics: DepthMetrics, compared: Compared, protocol: Protocol) -> WorstImage:
    """What outlives the sample, in arrays of its own: a source may reuse its buffers."""
    scored_m = _clipped(compared, protocol).nan_to_num(nan=0.0)
    return WorstImage(
        name=sample.name,
        metrics=metrics,
        image=sample.image.copy(),
        prediction_m=scored_m.numpy(),
        target_m=compared.target_m.numpy(),
        valid=compared.valid.numpy(),
    )
