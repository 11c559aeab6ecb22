"""A loss of relative errors, for heads of few parameters: SILog, AbsRel, edges at four scales, honest uncertainty."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from torch import Tensor

from spaceclip_plugin.head import HeadOutput
from spaceclip_plugin.training.losses.depth_loss import check_weights, weighted_sum
from spaceclip_plugin.training.losses.terms import (
    abs_rel_loss,
    log_gradient_loss,
    log_step_loss,
    resized,
    silog_loss,
    uncertainty_loss,
)


@dataclass(frozen=True)
class RelativeLoss:
    """Weighted SILog, AbsRel, L1 of differences of log depth at strides 1 to 8 (gradient), and uncertainty likelihood.

    On request also L1 of the steps of log depth across 1, 2 and 4 pixels, at full resolution. The likelihood counts
    only where the head predicts its uncertainty. A weight of zero costs nothing; auxiliary maps are ignored. Maps are
    resized to the target bilinearly, with half-pixel centres.

    Raises:
        ConfigError: a weight that is negative or not finite, or none of silog, abs_rel, gradient and steps above
            zero.

    Example:
        >>> import torch
        >>> from spaceclip_plugin.head import HeadOutput
        >>> target_m = torch.full((1, 8, 8), 2.0)
        >>> loss = RelativeLoss(silog=0.0, abs_rel=1.0)  # a constant factor has no edges: its AbsRel is left
        >>> round(float(loss(HeadOutput(1.1 * target_m), target_m, valid=target_m > 0)), 3)
        0.1
    """

    silog: float = 0.15
    abs_rel: float = 1.5
    gradient: float = 0.1
    uncertainty: float = 1.0
    steps: float = 0.0

    def __post_init__(self) -> None:
        depth = {"silog": self.silog, "abs_rel": self.abs_rel, "gradient": self.gradient, "steps": self.steps}
        check_weights(depth, {"uncertainty": self.uncertainty})

    @property
    def learns_uncertainty(self) -> bool:
        """Whether its term has a weight."""
        return self.uncertainty > 0

    def __call__(self, output: HeadOutput, target_m: Tensor, *, valid: Tensor) -> Tensor:
        """The weighted sum; see `DepthLoss`."""
        target_hw = (target_m.shape[-2], target_m.shape[-1])
        depth_m = resized(output.depth_m, target_hw, align_corners=False)
        main = [
            (self.silog, silog_loss), (self.abs_rel, abs_rel_loss), (self.gradient, log_gradient_loss),
            (self.steps, log_step_loss),
        ]  # fmt: skip
        terms = [(weight, partial(term, depth_m, target_m, valid=valid)) for weight, term in main]
        if output.uncertainty_m is not None:
            uncertainty_m = resized(output.uncertainty_m, target_hw, align_corners=False)
            likelihood = partial(uncertainty_loss, depth_m, uncertainty_m, target_m, valid=valid)
            terms.append((self.uncertainty, likelihood))
        return weighted_sum(terms)
