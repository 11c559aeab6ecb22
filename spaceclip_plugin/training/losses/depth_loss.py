"""What every training loss provides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True, eq=False)
class LossValue:
    """What a loss returns.

    Attributes:
        total: the scalar to differentiate.
        parts: its terms before weighting, detached scalars for the log ("silog", "ssim", "silog_aux0", …).
    """

    total: Tensor
    parts: dict[str, Tensor]


class DepthLoss(Protocol):
    """What the trainer calls: a head's output against the target."""

    @property
    def learns_uncertainty(self) -> bool:
        """Whether `uncertainty_m` has a gradient: a head that predicts it must not be trained without."""
        ...

    def __call__(
        self,
        depth_m: Tensor,
        auxiliary: Sequence[Tensor],
        *,
        target_m: Tensor,
        valid: Tensor,
        uncertainty_m: Tensor | None = None,
    ) -> LossValue:
        """The loss of one batch.

        Args:
            depth_m: (B, h, w) metres, resized to the target where its size differs.
            auxiliary: maps (B, h_i, w_i) in metres, coarser predictions of the same depth; may be empty.
            target_m: (B, H, W) metres, positive where valid.
            valid: (B, H, W) bool.
            uncertainty_m: (B, h, w) standard deviation in metres, or None where the head predicts none.

        Raises:
            DataError: shapes do not fit, or no pixel of the batch is valid.
        """
        ...
