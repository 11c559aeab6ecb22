"""What every training loss provides, and how one is put together from weighted terms."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

import torch
from torch import Tensor

from spaceclip_plugin.errors import ConfigError
from spaceclip_plugin.head import HeadOutput


class DepthLoss(Protocol):
    """What the trainer calls: a head's output against the target.

    Example:
        >>> import torch
        >>> from spaceclip_plugin.head import HeadOutput
        >>> from spaceclip_plugin.training.losses import RelativeLoss
        >>> target_m = torch.full((1, 8, 8), 2.0)
        >>> loss = RelativeLoss()(HeadOutput(1.1 * target_m), target_m, valid=target_m > 0)
        >>> loss.ndim, bool(loss > 0)
        (0, True)
    """

    @property
    def learns_uncertainty(self) -> bool:
        """Whether `uncertainty_m` has a gradient: a head that predicts it must not be trained without."""
        ...

    def __call__(self, output: HeadOutput, target_m: Tensor, *, valid: Tensor) -> Tensor:
        """The loss of one batch, a scalar to differentiate.

        Args:
            output: maps (B, h, w) in metres, each of any size; a loss resizes those it compares to the target's.
            target_m: (B, H, W) metres, positive where valid.
            valid: (B, H, W) bool.

        Raises:
            DataError: shapes do not fit, or no pixel of the batch is valid.
        """
        ...


def weighted_sum(terms: Iterable[tuple[float, Callable[[], Tensor]]]) -> Tensor:
    """The sum of weight times term; a term of weight zero is not computed."""
    return torch.stack([weight * term() for weight, term in terms if weight > 0]).sum()


def check_weights(depth: Mapping[str, float], others: Mapping[str, float]) -> None:
    """Check a loss's weights: all finite and not negative, and one of `depth` above zero."""
    weights = {**depth, **others}
    if not all(math.isfinite(weight) and weight >= 0 for weight in weights.values()) or not any(depth.values()):
        given = ", ".join(f"{name}={weight}" for name, weight in weights.items())
        raise ConfigError(
            f"loss weights must be finite and not negative, with one of {', '.join(depth)} above zero, got {given}"
        )
