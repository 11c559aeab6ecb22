"""The published loss (SILog, SSIM, auxiliary SILog): arXiv 2601.17657, checked against its code's outputs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from spaceclip_plugin.errors import ConfigError
from spaceclip_plugin.training.losses.depth_loss import LossValue
from spaceclip_plugin.training.losses.terms import gradient_loss, resized, silog_loss, ssim_loss


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

    @property
    def learns_uncertainty(self) -> bool:
        """False: the published heads predict none."""
        return False

    def __call__(
        self,
        depth_m: Tensor,
        auxiliary: Sequence[Tensor],
        *,
        target_m: Tensor,
        valid: Tensor,
        uncertainty_m: Tensor | None = None,
    ) -> LossValue:
        """The weighted sum.

        Args:
            depth_m: (B, h, w) metres, resized to the target where its size differs.
            auxiliary: maps (B, h_i, w_i) in metres, resized likewise; may be empty.
            target_m: (B, H, W) metres, positive where valid.
            valid: (B, H, W) bool.
            uncertainty_m: ignored.

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


def resized_as_published(prediction_m: Tensor, target_hw: tuple[int, int]) -> Tensor:
    """(B, h, w) to (B, H, W): bilinear with aligned corners, unlike head and evaluation, as the published losses do.

    Raises:
        DataError: the prediction is not (B, h, w).
    """
    return resized(prediction_m, target_hw, align_corners=True)
