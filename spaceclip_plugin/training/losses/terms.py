"""Terms of the training losses, scalars of prediction, target (metres, 0 where unknown) and mask, all (B, H, W).
SILog, SSIM and the gradient of depth are checked against the published code's outputs."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from spaceclip_plugin.errors import DataError

# Where logarithm, root and division stop being finite; the published values, so that the loss is the same function.
_DEPTH_FLOOR_M = 1e-7
_VARIANCE_FLOOR = 1e-7
_RANGE_FLOOR_M = 1e-6
_RELATIVE_FLOOR = 1e-6
_PROBABILITY_FLOOR = 1e-6

_SSIM_RADIUS, _SSIM_SIGMA = 5, 1.5
_SSIM_C1, _SSIM_C2 = 0.01**2, 0.03**2


def silog_loss(prediction_m: Tensor, target_m: Tensor, *, valid: Tensor) -> Tensor:
    """10 sqrt(var(g) + 0.15 mean(g)^2), g = ln prediction - ln target: Eigen et al. 2014, equation 4.
    Where the root is at its floor (a perfect prediction) the gradient is zero."""
    prediction, target = _checked(prediction_m, target_m, valid)
    # Sums under the mask: picking the valid pixels out costs several times as much as all the arithmetic on them.
    count = valid.sum()
    difference = _log(prediction) - _log(target)
    mean = difference.masked_fill(~valid, 0).sum() / count
    variance = (difference - mean).masked_fill(~valid, 0).square().sum() / count
    return 10.0 * (variance + 0.15 * mean.square()).clamp_min(_VARIANCE_FLOOR).sqrt()


def ssim_loss(prediction_m: Tensor, target_m: Tensor, *, valid: Tensor) -> Tensor:
    """Mean of 1 - SSIM over all valid pixels, both maps normalised by the target's valid range per sample.
    As published, unknown pixels of the target (0 m, so 0 after clamping) are seen by their neighbours' windows."""
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
    """Mean absolute error of horizontal and of vertical differences between valid neighbours, averaged; metres."""
    prediction, target = _checked(prediction_m, target_m, valid)
    error = prediction - target
    means = []
    for dim in (1, 2):
        size = error.shape[dim] - 1
        pairs = valid.narrow(dim, 1, size) & valid.narrow(dim, 0, size)
        means.append(error.diff(dim=dim).abs()[pairs].sum() / pairs.sum().clamp_min(1))
    return 0.5 * (means[0] + means[1])


def abs_rel_loss(prediction_m: Tensor, target_m: Tensor, *, valid: Tensor) -> Tensor:
    """Mean |prediction - target| / target over all valid pixels of the batch: AbsRel itself."""
    prediction, target = _checked(prediction_m, target_m, valid)
    relative = (prediction - target).abs() / target.masked_fill(~valid, 1)
    return relative.masked_fill(~valid, 0).sum() / valid.sum()


def log_gradient_loss(
    prediction_m: Tensor, target_m: Tensor, *, valid: Tensor, strides: Sequence[int] = (1, 2, 4, 8)
) -> Tensor:
    """Sum over strides s of s (mean |Δx g| + mean |Δy g|), g = ln prediction - ln target at every s-th pixel: MiDaS.
    Only differences between two valid pixels count, so that sparse targets do; it is blind to the overall scale."""
    prediction, target = _checked(prediction_m, target_m, valid)
    error = (_log(prediction) - _log(target)).masked_fill(~valid, 0)
    means = []
    for stride in strides:
        coarse, known = error[:, ::stride, ::stride], valid[:, ::stride, ::stride]
        for dim in (1, 2):
            size = coarse.shape[dim] - 1
            pairs = known.narrow(dim, 1, size) & known.narrow(dim, 0, size)
            jumps = coarse.diff(dim=dim).abs().masked_fill(~pairs, 0)
            means.append(stride * jumps.sum() / pairs.sum().clamp_min(1))
    return torch.stack(means).sum()


def log_step_loss(
    prediction_m: Tensor, target_m: Tensor, *, valid: Tensor, strides: Sequence[int] = (1, 2, 4)
) -> Tensor:
    """Sum over strides s of mean |Δx g| + mean |Δy g|, g = ln prediction - ln target, between pixels s apart. Unlike
    `log_gradient_loss` it skips none: an edge one pixel off counts at every stride, wherever it lies."""
    prediction, target = _checked(prediction_m, target_m, valid)
    error = (_log(prediction) - _log(target)).masked_fill(~valid, 0)
    means = []
    for stride in strides:
        for lines, known in ((error, valid), (error.mT, valid.mT)):
            pairs = known[:, stride:] & known[:, :-stride]
            steps = (lines[:, stride:] - lines[:, :-stride]).abs().masked_fill(~pairs, 0)
            means.append(steps.sum() / pairs.sum().clamp_min(1))
    return torch.stack(means).sum()


def uncertainty_loss(prediction_m: Tensor, uncertainty_m: Tensor, target_m: Tensor, *, valid: Tensor) -> Tensor:
    """Mean of |g| / b + ln b, g = ln prediction - ln target: negative log-likelihood under a Laplace distribution, but
    for a constant. `uncertainty_m` is a standard deviation in metres."""
    # No gradient reaches the prediction: learning how wrong the depth is must not change the depth.
    prediction, target = _checked(prediction_m.detach(), target_m, valid)
    uncertainty, _ = _checked(uncertainty_m, target_m, valid)
    prediction = prediction.masked_fill(~valid, 1).clamp_min(_DEPTH_FLOOR_M)  # NaN there would reach the gradient
    residual = (prediction.log() - _log(target)).abs()
    scale = (uncertainty / prediction).clamp_min(_RELATIVE_FLOOR) / math.sqrt(2)
    return (residual / scale + scale.log()).masked_fill(~valid, 0).sum() / valid.sum()


def emptiness_loss(empty: Tensor, nothing: Tensor, *, known: Tensor) -> Tensor:
    """Mean binary cross-entropy, over the pixels of which it is `known`, of the probability `empty` (B, h, w) that
    nothing is there and whether that is so, `nothing` (B, H, W) bool."""
    probability = resized(empty, (nothing.shape[1], nothing.shape[2]), align_corners=False)
    right = torch.where(nothing, probability, 1 - probability).clamp_min(_PROBABILITY_FLOOR)
    return -right.log().masked_fill(~known, 0).sum() / known.sum()


def resized(map_m: Tensor, target_hw: tuple[int, int], *, align_corners: bool) -> Tensor:
    """(B, h, w) to (B, H, W), bilinear and in float32 at least; the map itself where it has that size."""
    if map_m.ndim != 3:
        raise DataError(f"a loss takes predictions of shape (B, h, w), got {tuple(map_m.shape)}")
    if map_m.shape[1:] == target_hw:
        return map_m
    maps = map_m[:, None].to(torch.promote_types(map_m.dtype, torch.float32))
    return functional.interpolate(maps, target_hw, mode="bilinear", align_corners=align_corners)[:, 0]


def _log(depth_m: Tensor) -> Tensor:
    return depth_m.clamp_min(_DEPTH_FLOOR_M).log()


def _checked(prediction_m: Tensor, target_m: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Both maps in float32 at least, once they are known to be comparable."""
    if prediction_m.ndim != 3 or prediction_m.shape != target_m.shape or target_m.shape != valid.shape:
        shapes = ", ".join(str(tuple(t.shape)) for t in (prediction_m, target_m, valid))
        raise DataError(
            f"prediction, target and valid must share one (B, H, W) shape, got {shapes}; "
            "resize the prediction first, as the registered losses do"
        )
    if valid.dtype != torch.bool:
        raise DataError(f"valid must be a bool mask, got {valid.dtype}; compare it, for example target_m > 0")
    if not bool(valid.any()):
        raise DataError("no valid pixel in the whole batch; check the depth encoding, or leave such samples out")
    dtype = torch.promote_types(prediction_m.dtype, torch.float32)
    return prediction_m.to(dtype), target_m.to(dtype)


def _ssim_map(x: Tensor, y: Tensor) -> Tensor:
    """SSIM per pixel of two (B, H, W) maps in [0, 1]: Wang et al. 2004, equation 13, zeros beyond the border.
    Four maps lie along the channels of a single image: the layout for which depthwise convolution is fast."""
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
