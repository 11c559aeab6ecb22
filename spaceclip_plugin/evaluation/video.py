"""How steady depth is over a video: what its errors do to a surface from one frame to the next.

Depth that never changes does not flicker, and a frame's own depth may be right and flicker: flicker without AbsRel says
nothing, and the two are given together.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from spaceclip_plugin.depth import Intrinsics, back_project
from spaceclip_plugin.depth.pose import checked_pose
from spaceclip_plugin.errors import DataError
from spaceclip_plugin.evaluation.metrics import comparable, depth_metrics

_SAME_SURFACE = 0.05  # of the depth


@dataclass(frozen=True)
class VideoMetrics:
    """How right and how steady the depth of a video is; see `video_metrics`.

    Attributes:
        abs_rel: mean over frames of mean |d - g| / g.
        flicker: mean over pairs of neighbouring frames of mean |e' - e|, with e = ln d - ln g, over the pixels that
            show in the later frame what the earlier one shows too.
        tae: temporal alignment error (Chen et al., Video Depth Anything, arXiv 2501.12375, section of its evaluation),
            of metric depth as it is and as a share: mean of |f(d) - d'| / d', with f(d) the depth of one frame of a
            pair as the other sees it, both ways. It asks nothing of the truth: of a camera at rest, any depth that
            stays is perfect.
        co_visible: share of valid pixels, of all later frames together, that count for flicker.

    Example:
        >>> video = VideoMetrics(abs_rel=0.2, flicker=0.03, tae=0.04, co_visible=0.9)
        >>> video.flicker
        0.03
    """

    abs_rel: float
    flicker: float
    tae: float
    co_visible: float


def video_metrics(
    prediction_m: Tensor, target_m: Tensor, *, valid: Tensor, camera_to_world: Tensor, intrinsics: Intrinsics
) -> VideoMetrics:
    """How right and how steady the depth of a video is, of one camera, computed in float64 on the CPU.

    Surfaces are followed by the true depth and the true places: every pixel of a frame goes to the pixel of the next
    that its point falls in, the nearest point wins, and it counts where the next frame's true depth is within 5 % of
    the point's. What moves on its own is followed no further than that; leave it out of `valid` where it matters.

    Args:
        prediction_m: (N, H, W) predicted metres of N ≥ 2 frames in the order of time.
        target_m: (N, H, W) true metres.
        valid: (N, H, W) bool, the pixels that count: where the truth is known.
        camera_to_world: (N, 4, 4) true places of the camera: x right, y down, z forward, in metres.
        intrinsics: of the camera, at any resolution of the same image.

    Raises:
        DataError: shapes differ, fewer than two frames, a frame without a valid pixel, a depth there that is not finite
            and positive, or no two neighbouring frames that see the same.
        ConfigError: a place that is not rigid.

    Example:
        A wall 2 m away, read 10 % too far in every second frame:

        >>> truth = torch.full((4, 6, 8), 2.0)
        >>> factors = torch.tensor([1.0, 1.1, 1.0, 1.1])[:, None, None]
        >>> still, camera = torch.eye(4).repeat(4, 1, 1), Intrinsics(8.0, 8.0, 4.0, 3.0, (6, 8))
        >>> video = video_metrics(
        ...     factors * truth, truth, valid=truth > 0, camera_to_world=still, intrinsics=camera
        ... )
        >>> round(video.abs_rel, 3), round(video.flicker, 4)  # ln 1.1 from frame to frame
        (0.05, 0.0953)
    """
    count = len(prediction_m)
    if prediction_m.ndim != 3 or count < 2 or tuple(camera_to_world.shape) != (count, 4, 4):
        raise DataError(
            "a video is depth (N, H, W) of at least two frames and a place (4, 4) of each, got "
            f"{tuple(prediction_m.shape)} and {tuple(camera_to_world.shape)}"
        )
    if not prediction_m.shape == target_m.shape == valid.shape:
        shapes = ", ".join(str(tuple(maps.shape)) for maps in (prediction_m, target_m, valid))
        raise DataError(f"prediction, target and valid of a video must share one (N, H, W) shape, got {shapes}")
    places = [checked_pose(place) for place in camera_to_world]
    frames = [comparable(*maps) for maps in zip(prediction_m, target_m, valid, strict=True)]
    abs_rel = [depth_metrics(depth, truth, valid=mask).abs_rel for depth, truth, mask in frames]
    flicker, seen, tae = [], 0, []
    for at in range(count - 1):
        (old, old_truth, old_mask), (new, new_truth, new_mask) = frames[at], frames[at + 1]
        onward = torch.linalg.inv(places[at + 1]) @ places[at]
        deep, index = seen_from(old_truth, old_mask, onward, intrinsics)
        both = (index >= 0) & new_mask & ((deep - new_truth).abs() < _SAME_SURFACE * new_truth)
        if bool(both.any()):
            before = (old.log() - old_truth.log()).flatten()[index[both]]
            flicker.append(float(((new.log() - new_truth.log())[both] - before).abs().mean()))
        seen += int(both.sum())
        tae.append(_misaligned((old, old_mask), (new, new_mask), onward, intrinsics))
        tae.append(_misaligned((new, new_mask), (old, old_mask), torch.linalg.inv(onward), intrinsics))
    aligned = [error for error in tae if error is not None]
    if not flicker or not aligned:
        raise DataError("no two neighbouring frames see the same; check the places: camera to world, in metres")
    return VideoMetrics(
        abs_rel=sum(abs_rel) / count,
        flicker=sum(flicker) / len(flicker),
        tae=sum(aligned) / len(aligned),
        co_visible=seen / int(sum(mask.sum() for _, _, mask in frames[1:])),
    )


def seen_from(depth_m: Tensor, mask: Tensor, onward: Tensor, intrinsics: Intrinsics) -> tuple[Tensor, Tensor]:
    """Depth of one frame, (H, W), as another sees it: the nearest point wins in each pixel, the first of equal ones.

    Args:
        depth_m: (H, W) metres, float64.
        mask: (H, W) bool, the pixels that there are.
        onward: (4, 4) float64, out of its camera frame into the other's.
        intrinsics: of both.

    Returns:
        (H, W) metres, infinite where nothing falls, and (H, W) int64 which pixel of the flattened map that is, -1
        there.
    """
    height, width = depth_m.shape
    camera = intrinsics.resized((height, width))
    x, y, z = (back_project(depth_m[None], camera)[0] @ onward[:3, :3].T + onward[:3, 3]).flatten(0, 1).T
    ahead = z.clamp_min(torch.finfo(z.dtype).tiny)
    column = (x / ahead * camera.fx_px + camera.cx_px).floor()
    row = (y / ahead * camera.fy_px + camera.cy_px).floor()
    lands = mask.flatten() & (z > 0) & (column >= 0) & (column < width) & (row >= 0) & (row < height)
    pixels = lands.nonzero()[:, 0]
    target, z = (row[pixels] * width + column[pixels]).long(), z[pixels]
    nearest = z.new_full((height * width,), torch.inf).scatter_reduce(0, target, z, "amin")
    first = z == nearest[target]
    index = torch.full((height * width,), len(mask.flatten()))
    index = index.scatter_reduce(0, target[first], pixels[first], "amin")
    index = torch.where(nearest.isfinite(), index, -1)
    return nearest.reshape(height, width), index.reshape(height, width)


def _misaligned(
    one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor], onward: Tensor, intrinsics: Intrinsics
) -> float | None:
    """AbsRel of the depth of one frame as the other sees it; None where no pixel has both."""
    deep, index = seen_from(*one, onward, intrinsics)
    depth, mask = other
    both = (index >= 0) & mask
    return float(((deep - depth).abs() / depth)[both].mean()) if bool(both.any()) else None
