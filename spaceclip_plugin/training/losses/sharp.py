"""The loss of relative errors with the steps of log depth at full resolution, which are where objects end."""

from __future__ import annotations

from dataclasses import dataclass

from spaceclip_plugin.training.losses.relative import RelativeLoss


@dataclass(frozen=True)
class SharpLoss(RelativeLoss):
    """What `RelativeLoss` sums, and the steps of log depth across 1, 2 and 4 pixels with weight 0.5.

    Raises:
        ConfigError: a weight that is negative or not finite, or none but that of the uncertainty above zero.

    Example:
        >>> import torch
        >>> from spaceclip_plugin.head import HeadOutput
        >>> target_m = torch.full((1, 8, 8), 2.0)
        >>> loss = SharpLoss(silog=0.0, abs_rel=1.0)  # a constant factor has no edges: its AbsRel is left
        >>> round(float(loss(HeadOutput(1.1 * target_m), target_m, valid=target_m > 0)), 3)
        0.1
    """

    steps: float = 0.5
