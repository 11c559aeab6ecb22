"""The published loss (SILog, SSIM, auxiliary SILog): arXiv 2601.17657, checked against its code's outputs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from torch import Tensor

from spaceclip_plugin.head import HeadOutput
from spaceclip_plugin.training.losses.depth_loss import check_weights, weighted_sum
from spaceclip_plugin.training.losses.terms import gradient_loss, resized, silog_loss, ssim_loss


@dataclass(frozen=True)
class PublishedLoss:
    """silog SILog + ssim SSIM + gradient L1 of differences + sum of auxiliary[i] SILog of the i-th auxiliary map.

    A weight of zero costs nothing; auxiliary maps beyond the weights have weight zero. The defaults are the recipe.

    Raises:
        ConfigError: a weight that is negative or not finite, or none of silog, ssim and gradient above zero.

    Example:
        >>> import torch
        >>> from spaceclip_plugin.head import HeadOutput
        >>> target_m = torch.full((1, 8, 8), 2.0)
        >>> round(float(PublishedLoss(ssim=0.0)(HeadOutput(1.1 * target_m), target_m, valid=target_m > 0)), 3)
        0.185
    """

    silog: float = 0.5
    ssim: float = 0.5
    gradient: float = 0.0
    auxiliary: tuple[float, ...] = (0.10, 0.05, 0.0)

    def __post_init__(self) -> None:
        auxiliary = {f"auxiliary[{i}]": weight for i, weight in enumerate(self.auxiliary)}
        check_weights({"silog": self.silog, "ssim": self.ssim, "gradient": self.gradient}, auxiliary)

    @property
    def learns_uncertainty(self) -> bool:
        """False: the published heads predict none."""
        return False

    def __call__(self, output: HeadOutput, target_m: Tensor, *, valid: Tensor) -> Tensor:
        """The weighted sum; see `DepthLoss`."""
        target_hw = (target_m.shape[-2], target_m.shape[-1])
        depth_m = resized_as_published(output.depth_m, target_hw)

        def auxiliary(map_m: Tensor) -> Tensor:
            return silog_loss(resized_as_published(map_m, target_hw), target_m, valid=valid)

        main = [(self.silog, silog_loss), (self.ssim, ssim_loss), (self.gradient, gradient_loss)]
        terms = [(weight, partial(term, depth_m, target_m, valid=valid)) for weight, term in main]
        maps = zip(self.auxiliary, output.auxiliary_m, strict=False)
        return weighted_sum([*terms, *((weight, partial(auxiliary, map_m)) for weight, map_m in maps)])


def resized_as_published(prediction_m: Tensor, target_hw: tuple[int, int]) -> Tensor:
    """(B, h, w) to (B, H, W): bilinear with aligned corners, unlike head and evaluation, as the published losses do."""
    return resized(prediction_m, target_hw, align_corners=True)
