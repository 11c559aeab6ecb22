"""A loss of edges and surfaces, for depth that is acted on: where an object ends, and how what it stands on lies."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from torch import Tensor

from spaceclip_plugin.head import HeadOutput
from spaceclip_plugin.training.losses.depth_loss import check_weights, weighted_sum
from spaceclip_plugin.training.losses.normals import normals_loss
from spaceclip_plugin.training.losses.terms import abs_log_loss, log_step_loss, resized, uncertainty_loss


@dataclass(frozen=True)
class SharpLoss:
    """Weighted mean error of log depth, L1 of its steps across 1, 2 and 4 pixels, normals, and uncertainty likelihood.

    Every term is over the target's own pixels, and all but the first are blind to the overall scale. The last counts
    only where the head predicts its uncertainty. A weight of zero costs nothing; auxiliary maps are ignored. Maps are
    resized to the target bilinearly, with half-pixel centres.

    Raises:
        ConfigError: a weight that is negative or not finite, or none of log, steps and normals above zero.

    Example:
        >>> import torch
        >>> from spaceclip_plugin.head import HeadOutput
        >>> target_m = torch.full((1, 8, 8), 2.0)
        >>> loss = SharpLoss()  # a constant factor has no edges and bends nothing: its logarithm is left
        >>> round(float(loss(HeadOutput(1.1 * target_m), target_m, valid=target_m > 0)), 3)
        0.095
    """

    log: float = 1.0
    steps: float = 0.5
    normals: float = 0.1
    uncertainty: float = 1.0

    def __post_init__(self) -> None:
        depth = {"log": self.log, "steps": self.steps, "normals": self.normals}
        check_weights(depth, {"uncertainty": self.uncertainty})

    @property
    def learns_uncertainty(self) -> bool:
        """Whether its term has a weight."""
        return self.uncertainty > 0

    def __call__(self, output: HeadOutput, target_m: Tensor, *, valid: Tensor) -> Tensor:
        """The weighted sum; see `DepthLoss`."""
        target_hw = (target_m.shape[-2], target_m.shape[-1])
        depth_m = resized(output.depth_m, target_hw, align_corners=False)
        main = [(self.log, abs_log_loss), (self.steps, log_step_loss), (self.normals, normals_loss)]
        terms = [(weight, partial(term, depth_m, target_m, valid=valid)) for weight, term in main]
        if output.uncertainty_m is not None:
            uncertainty_m = resized(output.uncertainty_m, target_hw, align_corners=False)
            likelihood = partial(uncertainty_loss, depth_m, uncertainty_m, target_m, valid=valid)
            terms.append((self.uncertainty, likelihood))
        return weighted_sum(terms)
