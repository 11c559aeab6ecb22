"""The adapter: where LabEye's parts are, and the one thing that is not data, its tokens' order."""

from __future__ import annotations

from torch import Tensor

from spaceclip_plugin.towers import ImageStatistics, RawFrame, TokenAdapter, Tower

TASK_TOKENS = 2


class LabEyeAdapter(TokenAdapter):
    """LabEye appends its task tokens; readers expect every other token before the patches."""

    def batch_first(self, raw: Tensor, frame: RawFrame, tower: Tower) -> Tensor:
        """Tokens (B, N, C) without the task tokens at their end."""
        return raw[:, :-TASK_TOKENS]


adapter = LabEyeAdapter(
    name="lab-eye",
    tower_classes=("LabEye",),
    patch_embedding="cut",
    blocks=("layers",),
    context_source="layers.3",
    context="mean",
    prefix_tokens=0,
    image_size=("image_size",),
    statistics=ImageStatistics.IMAGENET,
)
