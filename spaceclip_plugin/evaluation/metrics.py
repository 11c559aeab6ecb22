"""The nine figures by which metric depth is compared, for one image, and their mean and deviation over images.

They are those of Eigen et al. (2014), section 4.2, and of the KITTI depth benchmark (SILog).
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor

from spaceclip_plugin.errors import DataError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Metrics = TypeVar("Metrics", bound="DataclassInstance")
"""A frozen dataclass of figures, nothing else."""


@dataclass(frozen=True)
class DepthMetrics:
    """Errors of predicted metres d against true metres g.

    Over the valid pixels of one image, or a statistic of those over images.

    Attributes:
        abs_rel: mean |d - g| / g.
        sq_rel: mean (d - g)^2 / g, in metres.
        rmse: root of mean (d - g)^2, in metres.
        rmse_log: root of mean (ln d - ln g)^2.
        log10: mean |log10 d - log10 g|.
        silog: 100 times the standard deviation (over n, not n - 1) of ln d - ln g.
        delta1: share of pixels with max(d / g, g / d) < 1.25.
        delta2: the same below 1.25^2.
        delta3: the same below 1.25^3.

    Example:
        >>> import torch
        >>> metrics = depth_metrics(torch.tensor([[1.5, 2.0]]), torch.tensor([[1.0, 2.0]]), valid=torch.ones(1, 2) > 0)
        >>> metrics.abs_rel, metrics.delta1
        (0.25, 0.5)
    """

    abs_rel: float
    sq_rel: float
    rmse: float
    rmse_log: float
    log10: float
    silog: float
    delta1: float
    delta2: float
    delta3: float


def depth_metrics(prediction_m: Tensor, target_m: Tensor, *, valid: Tensor) -> DepthMetrics:
    """Metrics of one image on its valid pixels, computed in float64 on the CPU.

    Nothing is clipped, resized or rescaled here: a prediction that cannot be compared is an error, not a number.

    Args:
        prediction_m: (H, W) predicted metres.
        target_m: (H, W) true metres.
        valid: (H, W) bool, the pixels that count.

    Raises:
        DataError: shapes differ, `valid` is not bool or marks nothing, or a marked pixel of either map is not a
            finite positive depth.

    Example:
        >>> import torch
        >>> truth = torch.full((4, 4), 2.0)
        >>> depth_metrics(1.1 * truth, truth, valid=truth > 0).delta1
        1.0
    """
    predicted, true, mask = comparable(prediction_m, target_m, valid)
    predicted, true = predicted[mask], true[mask]
    difference = predicted - true
    log_ratio = predicted.log() - true.log()
    ratio = torch.maximum(predicted / true, true / predicted)
    return DepthMetrics(
        abs_rel=float((difference.abs() / true).mean()),
        sq_rel=float((difference.square() / true).mean()),
        rmse=float(difference.square().mean().sqrt()),
        rmse_log=float(log_ratio.square().mean().sqrt()),
        log10=float((predicted.log10() - true.log10()).abs().mean()),
        silog=100.0 * float(log_ratio.std(correction=0)),
        delta1=float((ratio < 1.25).double().mean()),
        delta2=float((ratio < 1.25**2).double().mean()),
        delta3=float((ratio < 1.25**3).double().mean()),
    )


def comparable(prediction_m: Tensor, target_m: Tensor, valid: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Both (H, W) maps in float64 on the CPU, 1 m where they do not count, and where they do.

    For errors see `depth_metrics`.
    """
    if prediction_m.ndim != 2 or prediction_m.shape != target_m.shape or target_m.shape != valid.shape:
        shapes = ", ".join(str(tuple(t.shape)) for t in (prediction_m, target_m, valid))
        raise DataError(
            f"prediction, target and valid must share one (H, W) shape, got {shapes}; "
            "resize the prediction to the target first, as Protocol.score does"
        )
    if valid.dtype != torch.bool:
        raise DataError(f"valid must be a bool mask, got {valid.dtype}; compare it, for example target_m > 0")
    mask = valid.cpu()
    if not bool(mask.any()):
        raise DataError("no valid pixel to compare; skip this image or check its ground truth")
    return _positive(prediction_m, mask, "prediction"), _positive(target_m, mask, "target"), mask


def over_images(per_image: Sequence[Metrics], statistic: Callable[[Sequence[float]], float]) -> Metrics:
    """A statistic over images of each metric: every image counts alike, however many valid pixels it has."""
    if not per_image:
        raise DataError("no image was scored, so there is no mean; check that the list of samples is not empty")
    names = [field.name for field in dataclasses.fields(per_image[0])]
    return type(per_image[0])(**{name: statistic([getattr(metrics, name) for metrics in per_image]) for name in names})


def mean_metrics(per_image: Sequence[Metrics]) -> Metrics:
    """The mean over images of each metric, of `DepthMetrics` or `EdgeMetrics`.

    Raises:
        DataError: no image at all.

    Example:
        >>> import torch
        >>> truth = torch.full((4, 4), 2.0)
        >>> images = [depth_metrics(factor * truth, truth, valid=truth > 0) for factor in (1.5, 2.0)]
        >>> mean_metrics(images).abs_rel
        0.75
    """
    return over_images(per_image, lambda values: sum(values) / len(values))


def metrics_deviation(per_image: Sequence[Metrics]) -> Metrics:
    """The standard deviation over images (n - 1) of each metric; 0 for one image, which has none."""
    return over_images(per_image, lambda values: statistics.stdev(values) if len(values) > 1 else 0.0)


def _positive(depth_m: Tensor, mask: Tensor, role: str) -> Tensor:
    """The map with 1 m where it does not count, once every value is known to be a finite positive depth."""
    whole = depth_m.detach().cpu().double().masked_fill(~mask, 1.0)
    bad = ~(torch.isfinite(whole) & (whole > 0))
    if bool(bad.any()):
        example = float(whole[bad][0])
        raise DataError(
            f"{role} has {int(bad.sum())} of {int(mask.sum())} valid pixels that are not a finite positive depth, "
            f"for example {example}; clip it to the depth range of the protocol or leave those pixels out of valid"
        )
    return whole
