"""Training losses: the published recipe (SILog, SSIM, auxiliary SILog) and the registry in which others join it.

Source: arXiv 2601.17657, checked against its code's outputs. SILog: Eigen et al. 2014, equation 4. SSIM: Wang et al.,
"Image Quality Assessment: From Error Visibility to Structural Similarity" (2004), equation 13.
"""

from __future__ import annotations

import math
import typing
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from spaceclip_plugin.errors import ConfigError, DataError

# Where logarithm, root and division stop being finite; the published values, so that the loss is the same function.
_DEPTH_FLOOR_M = 1e-7
_SPREAD_FLOOR = 1e-7
_RANGE_FLOOR_M = 1e-6

_SSIM_RADIUS, _SSIM_SIGMA = 5, 1.5
_SSIM_C1, _SSIM_C2 = 0.01**2, 0.03**2


def silog_loss(prediction_m: Tensor, target_m: Tensor, *, valid: Tensor) -> Tensor:
    """10 sqrt(var(g) + 0.15 mean(g)^2), g = ln prediction - ln target, over all valid pixels of the batch.

    The variance divides by n. Where the root is at its floor (a perfect prediction) the gradient is zero.

    Args:
        prediction_m: (B, H, W) metres; values under 1e-7 m, as a dead ReLU gives, count as 1e-7 m.
        target_m: (B, H, W) metres, positive where valid.
        valid: (B, H, W) bool.

    Returns:
        A scalar.

    Raises:
        DataError: shapes differ, `valid` is not bool, or no pixel of the batch is valid.
    """
    prediction, target = _checked(prediction_m, target_m, valid)
    # Sums under the mask: picking the valid pixels out costs several times as much as all the arithmetic on them.
    count = valid.sum()
    difference = prediction.clamp_min(_DEPTH_FLOOR_M).log() - target.clamp_min(_DEPTH_FLOOR_M).log()
    mean = difference.masked_fill(~valid, 0).sum() / count
    variance = (difference - mean).masked_fill(~valid, 0).square().sum() / count
    spread = variance + 0.15 * mean.square()
    return 10.0 * spread.clamp_min(_SPREAD_FLOOR).sqrt()


def ssim_loss(prediction_m: Tensor, target_m: Tensor, *, valid: Tensor) -> Tensor:
    """Mean of 1 - SSIM over all valid pixels, both maps normalised by the target's valid range per sample.

    Normalised maps are clamped to [0, 1] and zero beyond the border. As published, unknown pixels of the target
    (0 m, so 0 after clamping) are seen by the windows of their neighbours. A sample without valid pixels is left out.

    Args:
        prediction_m: (B, H, W) metres.
        target_m: (B, H, W) metres; 0 where unknown.
        valid: (B, H, W) bool.

    Returns:
        A scalar.

    Raises:
        DataError: shapes differ, `valid` is not bool, or no pixel of the batch is valid.
    """
    prediction, target = _checked(prediction_m, target_m, valid)
    known = valid.flatten(1).any(dim=1)
    if not bool(known.all()):
        prediction, target, valid = prediction[known], target[known], valid[known]
    low = target.masked_fill(~valid, math.inf).amin((1, 2), keepdim=True)
    high = target.masked_fill(~valid, -math.inf).amax((1, 2), keepdim=True)
    span = (high - low).clamp_min(_RANGE_FLOOR_M)
    similarity = _ssim_map(((prediction - low) / span).clamp(0, 1), ((target - low) / span).clamp(0, 1))
    return (1.0 - similarity).masked_fill(~valid, 0).sum() / valid.sum()


def gradient_loss(prediction_m: Tensor, target_m: Tensor, *, valid: Tensor) -> Tensor:
    """Mean absolute error of horizontal and of vertical differences between valid neighbours, averaged; metres.

    Args:
        prediction_m: (B, H, W) metres.
        target_m: (B, H, W) metres.
        valid: (B, H, W) bool.

    Returns:
        A scalar; a direction in which no two neighbours are valid adds zero.

    Raises:
        DataError: shapes differ, `valid` is not bool, or no pixel of the batch is valid.
    """
    prediction, target = _checked(prediction_m, target_m, valid)
    error = prediction - target
    means = []
    for dim in (1, 2):
        size = error.shape[dim] - 1
        pairs = valid.narrow(dim, 1, size) & valid.narrow(dim, 0, size)
        means.append(error.diff(dim=dim).abs()[pairs].sum() / pairs.sum().clamp_min(1))
    return 0.5 * (means[0] + means[1])


@dataclass(frozen=True, eq=False)
class LossValue:
    """What a loss returns.

    Attributes:
        total: the scalar to differentiate.
        parts: its terms before weighting, detached scalars for the log ("silog", "ssim", "silog_aux0", …).
    """

    total: Tensor
    parts: dict[str, Tensor]


class DepthLoss(typing.Protocol):
    """What the trainer calls: a head's depth and auxiliary maps against the target."""

    def __call__(self, depth_m: Tensor, auxiliary: Sequence[Tensor], *, target_m: Tensor, valid: Tensor) -> LossValue:
        """(B, h, w) metres and auxiliary maps against (B, H, W) metres where `valid`; see `PublishedLoss`."""
        ...


@dataclass(frozen=True)
class PublishedLoss:
    """silog SILog + ssim SSIM + gradient L1 of differences + sum of auxiliary[i] SILog of the i-th auxiliary map.

    A weight of zero costs nothing; auxiliary maps beyond the weights have weight zero. The defaults are the recipe.
    """

    silog: float = 0.5
    ssim: float = 0.5
    gradient: float = 0.0
    auxiliary: tuple[float, ...] = (0.10, 0.05, 0.0)

    def __post_init__(self) -> None:
        main = (self.silog, self.ssim, self.gradient)
        if not all(math.isfinite(w) and w >= 0 for w in (*main, *self.auxiliary)) or not any(main):
            raise ConfigError(
                "loss weights must be finite and not negative, with one of silog, ssim, gradient above zero, "
                f"got silog={self.silog}, ssim={self.ssim}, gradient={self.gradient}, auxiliary={self.auxiliary}"
            )

    def __call__(self, depth_m: Tensor, auxiliary: Sequence[Tensor], *, target_m: Tensor, valid: Tensor) -> LossValue:
        """The weighted sum.

        Args:
            depth_m: (B, h, w) metres, resized to the target where its size differs.
            auxiliary: maps (B, h_i, w_i) in metres, resized likewise; may be empty.
            target_m: (B, H, W) metres, positive where valid.
            valid: (B, H, W) bool.

        Raises:
            DataError: shapes do not fit, or no pixel of the batch is valid.
        """
        target_hw = (target_m.shape[-2], target_m.shape[-1])
        depth_m = resized_as_published(depth_m, target_hw)
        terms = [
            (self.silog, "silog", silog_loss, depth_m),
            (self.ssim, "ssim", ssim_loss, depth_m),
            (self.gradient, "gradient", gradient_loss, depth_m),
        ]
        terms += [
            (weight, f"silog_aux{index}", silog_loss, resized_as_published(map_m, target_hw))
            for index, (weight, map_m) in enumerate(zip(self.auxiliary, auxiliary, strict=False))
            if weight > 0
        ]
        used = [(weight, name, loss(map_m, target_m, valid=valid)) for weight, name, loss, map_m in terms if weight > 0]
        total = torch.stack([weight * value for weight, _, value in used]).sum()
        return LossValue(total, {name: value.detach() for _, name, value in used})


LOSSES: dict[str, type[DepthLoss]] = {"published": PublishedLoss}


def resized_as_published(prediction_m: Tensor, target_hw: tuple[int, int]) -> Tensor:
    """(B, h, w) to (B, H, W): bilinear with aligned corners, unlike head and evaluation, as the published losses do.

    Raises:
        DataError: the prediction is not (B, h, w).
    """
    if prediction_m.ndim != 3:
        raise DataError(f"a loss takes predictions of shape (B, h, w), got {tuple(prediction_m.shape)}")
    if prediction_m.shape[1:] == target_hw:
        return prediction_m
    maps = prediction_m[:, None].to(torch.promote_types(prediction_m.dtype, torch.float32))
    return functional.interpolate(maps, target_hw, mode="bilinear", align_corners=True)[:, 0]


def _checked(prediction_m: Tensor, target_m: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Both maps in float32 at least, once they are known to be comparable."""
    if prediction_m.ndim != 3 or prediction_m.shape != target_m.shape or target_m.shape != valid.shape:
        shapes = ", ".join(str(tuple(t.shape)) for t in (prediction_m, target_m, valid))
        raise DataError(
            f"prediction, target and valid must share one (B, H, W) shape, got {shapes}; "
            "resize the prediction first, as PublishedLoss does"
        )
    if valid.dtype != torch.bool:
        raise DataError(f"valid must be a bool mask, got {valid.dtype}; compare it, for example target_m > 0")
    if not bool(valid.any()):
        raise DataError("no valid pixel in the whole batch; check the depth encoding, or leave such samples out")
    dtype = torch.promote_types(prediction_m.dtype, torch.float32)
    return prediction_m.to(dtype), target_m.to(dtype)


def _ssim_map(x: Tensor, y: Tensor) -> Tensor:
    """SSIM per pixel of two (B, H, W) maps in [0, 1]: 11x11 Gaussian window, sigma 1.5, zeros beyond the border.

    The window is separable and SSIM needs only the sum of both second moments, so four maps go through two 1-D
    convolutions. They lie along the channels of a single image: the layout for which depthwise convolution is fast.
    """
    offset = torch.arange(-_SSIM_RADIUS, _SSIM_RADIUS + 1, dtype=x.dtype, device=x.device)
    window = torch.exp(offset.square() / (-2.0 * _SSIM_SIGMA**2))
    maps = torch.cat([x, y, x * x + y * y, x * y])[None]
    count = maps.shape[1]
    window = (window / window.sum()).expand(count, 1, 1, -1)
    # Autocast would blur in half precision, in which the differences of moments below are noise.
    with torch.autocast(x.device.type, enabled=False):
        maps = functional.conv2d(maps, window.mT, padding=(_SSIM_RADIUS, 0), groups=count)
        maps = functional.conv2d(maps, window, padding=(0, _SSIM_RADIUS), groups=count)
    mean_x, mean_y, mean_squares, mean_product = maps[0].chunk(4)
    product, squares = mean_x * mean_y, mean_x * mean_x + mean_y * mean_y
    covariance, variances = mean_product - product, mean_squares - squares
    numerator = (2 * product + _SSIM_C1) * (2 * covariance + _SSIM_C2)
    return numerator / ((squares + _SSIM_C1) * (variances + _SSIM_C2))
