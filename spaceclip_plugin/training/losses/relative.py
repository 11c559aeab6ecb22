"""A loss of relative errors, for heads of few parameters: SILog, AbsRel, edges at four scales, honest uncertainty."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from spaceclip_plugin.errors import ConfigError
from spaceclip_plugin.training.losses.depth_loss import LossValue
from spaceclip_plugin.training.losses.terms import abs_rel_loss, log_gradient_loss, resized, silog_loss, spread_loss


@dataclass(frozen=True)
class RelativeLoss:
    """silog SILog + abs_rel AbsRel + gradient L1 of differences of log depth at strides 1 to 8 + spread likelihood.

    The last counts only where the head predicts its uncertainty. A weight of zero costs nothing; auxiliary maps are
    ignored.
    """

    silog: float = 0.15
    abs_rel: float = 1.5
    gradient: float = 0.1
    spread: float = 1.0

    def __post_init__(self) -> None:
        depth = (self.silog, self.abs_rel, self.gradient)
        if not all(math.isfinite(w) and w >= 0 for w in (*depth, self.spread)) or not any(depth):
            raise ConfigError(
                "loss weights must be finite and not negative, with one of silog, abs_rel, gradient above zero, "
                f"got silog={self.silog}, abs_rel={self.abs_rel}, gradient={self.gradient}, spread={self.spread}"
            )

    @property
    def learns_uncertainty(self) -> bool:
        """Whether its term has a weight."""
        return self.spread > 0

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
            depth_m: (B, h, w) metres, resized to the target (bilinear, half-pixel centres) where its size differs.
            auxiliary: ignored.
            target_m: (B, H, W) metres, positive where valid.
            valid: (B, H, W) bool.
            uncertainty_m: (B, h, w) standard deviation in metres, resized likewise; None leaves its term out.

        Raises:
            DataError: shapes do not fit, or no pixel of the batch is valid.
        """
        target_hw = (target_m.shape[-2], target_m.shape[-1])
        depth_m = resized(depth_m, target_hw, align_corners=False)
        used: list[tuple[float, str, Tensor]] = []
        if self.silog > 0:
            used.append((self.silog, "silog", silog_loss(depth_m, target_m, valid=valid)))
        if self.abs_rel > 0:
            used.append((self.abs_rel, "abs_rel", abs_rel_loss(depth_m, target_m, valid=valid)))
        if self.gradient > 0:
            used.append((self.gradient, "log_gradient", log_gradient_loss(depth_m, target_m, valid=valid)))
        if self.spread > 0 and uncertainty_m is not None:
            uncertainty_m = resized(uncertainty_m, target_hw, align_corners=False)
            used.append((self.spread, "spread", spread_loss(depth_m, uncertainty_m, target_m, valid=valid)))
        total = torch.stack([weight * value for weight, _, value in used]).sum()
        return LossValue(total, {name: value.detach() for _, name, value in used})
