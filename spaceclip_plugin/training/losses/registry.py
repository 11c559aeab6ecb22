"""The training losses by name. A new one is one file and one line here."""

from __future__ import annotations

from spaceclip_plugin.training.losses.depth_loss import DepthLoss
from spaceclip_plugin.training.losses.published import PublishedLoss
from spaceclip_plugin.training.losses.relative import RelativeLoss

LOSSES: dict[str, type[DepthLoss]] = {
    "relative": RelativeLoss,
    "published": PublishedLoss,
}
