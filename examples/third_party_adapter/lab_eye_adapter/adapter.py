"""The adapter: where LabEye's parts are, and the one thing that is not data, its tokens' order."""

from __future__ import annotations

from torch import Tensor

from spaceclip_plugin.towers.spec import MEAN, RawFrame, Tower
from spaceclip_plugin.towers.token_adapter import IMAGENET, TokenTowerAdapter

TASK_TOKENS = 2


class LabEyeAdapter(TokenTowerAdapter):
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
    context=MEAN,
    prefix_tokens=0,
    image_size=("image_size",),
    statistics=IMAGENET,
)
