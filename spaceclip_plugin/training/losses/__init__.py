"""What a head is trained to minimise. A new loss is one file and one line in `LOSSES`."""

from spaceclip_plugin.training.losses.depth_loss import DepthLoss
from spaceclip_plugin.training.losses.published import PublishedLoss
from spaceclip_plugin.training.losses.relative import RelativeLoss

__all__ = ["LOSSES", "DepthLoss", "PublishedLoss", "RelativeLoss"]

LOSSES: dict[str, type[DepthLoss]] = {
    "relative": RelativeLoss,
    "published": PublishedLoss,
}
"""By the name that a recipe gives them."""
