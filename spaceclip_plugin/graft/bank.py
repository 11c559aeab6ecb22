"""What a graft's blocks read: for each camera a grid of cells that tell what is seen there, where, and how surely."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from spaceclip_plugin.depth import DepthMap
from spaceclip_plugin.errors import CaptureError
from spaceclip_plugin.graft.config import CELLS, IMAGE, OCTAVES, PLACED, GraftConfig
from spaceclip_plugin.towers import TowerFeatures

PLACE_FEATURES = 3 * 2 * OCTAVES + 3  # sine and cosine of three coordinates; log depth, log deviation, share

_LONGEST_M = 8.0
_NEAREST_M = 1e-3
_TINY = 1e-6


@dataclass(eq=False)
class Bank:
    """The cells of all cameras, N of them, of one forward of the policy, free of gradients.

    Attributes:
        look: (B, N, C) what the taps saw, each of unit root mean square.
        place: (B, N, `PLACE_FEATURES`) where it is, how far and how surely.
        camera: (N,) long, which of the graft's cameras sees it.
        valid: (B, N) bool, whether there is any depth.
    """

    look: Tensor
    place: Tensor
    camera: Tensor
    valid: Tensor

    @classmethod
    def of(
        cls,
        seen: list[tuple[DepthMap, TowerFeatures]],
        config: GraftConfig,
        places: Mapping[str, Tensor],
        like: Tensor,
    ) -> Bank:
        """Of the image calls of one forward; `places` are (B or 1, 4, 4) camera to frame; as `like` is.

        Raises:
            CaptureError: a call whose camera, lens or place is not known, or calls of batches that differ.
        """
        sizes = {len(depth.depth_m) for depth, _ in seen}
        if len(sizes) != 1:
            raise CaptureError(
                f"the image calls of this forward are of {sorted(sizes)} images, a graft reads one call of each camera "
                f"({', '.join(config.cameras)}) with an image of each robot; policies that show their tower all "
                "cameras in one call cannot have one"
            )
        newest = {depth.camera or "": (depth, one) for depth, one in seen if _has_camera(depth, config)}
        batch = sizes.pop()
        looks = [torch.zeros(batch, 0, config.look_width)]  # where every camera is missing, there are no cells
        told, shares = [torch.zeros(batch, 0, PLACE_FEATURES)], [torch.zeros(batch, 0)]
        for name, (depth, features) in newest.items():
            looks.append(_look(features))
            where, share = _place(depth, features, config, places.get(name))
            told.append(where)
            shares.append(share)
        camera = [config.cameras.index(name) for name in newest for _ in range(CELLS**2)]
        look, place, share = (torch.cat([each.to(like) for each in one], dim=1) for one in (looks, told, shares))
        return cls(look, place, torch.tensor(camera, device=like.device, dtype=torch.long), share > 0)


def _has_camera(depth: DepthMap, config: GraftConfig) -> bool:
    """Whether a call is of a camera of the graft; an image of one value, in place of a missing camera, is of none."""
    if depth.camera in config.cameras:
        return True
    if depth.valid.any():
        raise CaptureError(
            f"an image call is of camera {depth.camera!r}, the graft's are {', '.join(config.cameras)}; where cameras "
            "are missing, tell before the step which there are: attachment.given(observation). A forward that failed "
            "half way leaves such calls, too: the next one is read on its own"
        )
    return False


def _look(features: TowerFeatures) -> Tensor:
    """(B, cells, C) tapped hidden states, pooled over the patches of each cell that show something."""
    pooled = []
    for _, hidden in sorted(features.hidden.items()):
        hidden = hidden.float()
        known = hidden.new_ones(len(hidden), 1, *hidden.shape[-2:])
        if features.valid is not None:
            known = features.valid[:, None].to(hidden)
        cells = _pooled(hidden, known)[0]
        pooled.append(cells * torch.rsqrt(cells.square().mean(dim=-1, keepdim=True) + _TINY))
    return torch.cat(pooled, dim=-1)


def _place(depth: DepthMap, features: TowerFeatures, config: GraftConfig, pose: Tensor | None) -> tuple[Tensor, Tensor]:
    """(B, cells, `PLACE_FEATURES`), and (B, cells) the share of each cell's pixels that have depth."""
    depth_m = depth.depth_m.clamp(min=_NEAREST_M)
    sd_m = torch.ones_like(depth_m) if depth.uncertainty_m is None else depth.uncertainty_m.clamp(min=_NEAREST_M)
    maps = [depth_m.log()[:, None], sd_m.log()[:, None]]
    if config.frame != IMAGE:
        maps.append(_points(depth).movedim(-1, 1))
    over, known = torch.cat(maps, dim=1), depth.valid[:, None].to(depth_m)
    if features.seen is not None:  # the taps' cells cover the patches alone
        over, known = features.seen.cropped(over), features.seen.cropped(known)
    cells, share = _pooled(over, known)
    logs = cells[..., :2]
    if config.frame == IMAGE:
        centres = (torch.arange(CELLS).to(cells) + 0.5) * (2 / CELLS) - 1
        grid = torch.stack(torch.meshgrid(centres, centres, indexing="ij"), dim=-1).reshape(1, -1, 2)
        coordinates = torch.cat([grid.expand(len(cells), -1, -1), logs[..., :1]], dim=-1)
    else:
        coordinates = cells[..., 2:]
    if config.frame == PLACED:
        coordinates = _moved(coordinates, pose, depth.camera)
    return torch.cat([_waves(coordinates), logs, share[..., None]], dim=-1), share


def _points(depth: DepthMap) -> Tensor:
    if depth.intrinsics is None:
        raise CaptureError(
            f"the lens of camera {depth.camera!r} is not known, and the graft reads places in metres: attach with "
            f"attach_depth_head(…, cameras={{{depth.camera!r}: Intrinsics(…)}}), or make and train a graft without: "
            f"DepthGraft.for_policy(…, frame={IMAGE!r})"
        )
    return depth.points()


def _moved(coordinates: Tensor, pose: Tensor | None, camera: str | None) -> Tensor:
    if pose is None:
        raise CaptureError(
            f"the graft reads places in a frame of the caller's, and where camera {camera!r} is in it was not told: "
            f"live.place({{{camera!r}: camera_to_frame}}) before each step, or graft.attach(…, places=…) where it stays"
        )
    if len(pose) not in (1, len(coordinates)):
        raise CaptureError(
            f"{len(pose)} places of camera {camera!r} were told, of {len(coordinates)} images: tell one of each, or of "
            "all"
        )
    pose = pose.to(coordinates)
    return coordinates @ pose[:, :3, :3].mT + pose[:, None, :3, 3]


def _waves(coordinates: Tensor) -> Tensor:
    """Fourier features of three coordinates, in wavelengths of 8 m (or image halves, or factors e) and halves of it."""
    turns = 2 * math.pi / _LONGEST_M * 2.0 ** torch.arange(OCTAVES).to(coordinates)
    angles = (coordinates[..., None] * turns).flatten(-2)
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


def _pooled(maps: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
    """(B, cells, C) means of maps (B, C, H, W) where known (B, 1, H, W), else 0; (B, cells) shares."""
    share = adaptive_avg_pool2d(known, CELLS)
    means = adaptive_avg_pool2d(torch.where(known > 0, maps, 0), CELLS) / share.clamp(min=_TINY)
    return means.flatten(2).mT, share.flatten(1)
