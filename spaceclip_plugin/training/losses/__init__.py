"""What a head is trained to minimise. A new loss is one file and one line in `LOSSES`."""

from spaceclip_plugin.training.losses.depth_loss import DepthLoss
from spaceclip_plugin.training.losses.published import PublishedLoss
from spaceclip_plugin.training.losses.relative import RelativeLoss
from spaceclip_plugin.training.losses.sharp import SharpLoss

__all__ = ["LOSSES", "DepthLoss", "PublishedLoss", "RelativeLoss", "SharpLoss"]

LOSSES: dict[str, type[DepthLoss]] = {
    "relative": RelativeLoss,
    "published": PublishedLoss,
    "sharp": SharpLoss,
}
"""By the name that a recipe gives them."""
