"""`FusedDepthHead`: a depth head rearranged for inference, the same function in fewer operations."""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn

import torch
from torch import nn
from typing_extensions import Self

from spaceclip_plugin.errors import ConfigError
from spaceclip_plugin.head.decoder import HeadOutput
from spaceclip_plugin.head.depth_head import DepthHead
from spaceclip_plugin.towers.spec import TowerFeatures

_ALREADY = "this head is fused already; use it as it is"


class FusedDepthHead(DepthHead):
    """What `DepthHead.fuse` gives: reads the same features, in eval mode for good, without auxiliary outputs.

    Its weights are copies: neither later training nor a move of the head it was made from reaches it.
    """

    def __init__(self, head: DepthHead) -> None:
        nn.Module.__init__(self)  # DepthHead's own would build the decoder that this one replaces
        if not isinstance(head, DepthHead):
            raise ConfigError(
                f"a fused head is made from a DepthHead by its fuse(), got {type(head).__name__}; "
                "load the head with DepthHead and fuse that"
            )
        if isinstance(head, FusedDepthHead):
            raise ConfigError(_ALREADY)
        self.config = head.config
        make = getattr(head.decoder, "fused", None)
        if make is None:
            raise ConfigError(f"the architecture {head.config.architecture!r} has no fused form; use the head as it is")
        with torch.inference_mode(False), torch.no_grad():
            self.decoder: nn.Module = make().to(next(head.parameters())).requires_grad_(False)
        self.eval()

    @torch.no_grad()
    def forward(
        self, features: TowerFeatures, output_size: tuple[int, int] | None = None, *, auxiliary: bool = False
    ) -> HeadOutput:
        """Decode one image call, without gradients and in the head's own precision; see `DepthHead.forward`.

        Raises:
            CaptureError: features the head cannot read.
            ConfigError: an impossible output size, or auxiliary outputs are asked for.
        """
        if auxiliary:
            raise ConfigError("a fused head has no auxiliary outputs; ask the head it was made from for them")
        device = next(self.parameters()).device
        with torch.autocast(device.type, enabled=False):
            output: HeadOutput = super().forward(features, output_size)
        return output

    def train(self, mode: bool = True) -> Self:
        """Eval mode alone.

        Raises:
            ConfigError: `mode` is true; a fused head cannot be trained.
        """
        if mode:
            raise ConfigError("a fused head cannot be trained; train the head it was made from, then fuse that")
        return super().train(False)

    def fuse(self) -> NoReturn:
        """Refused: the head is fused already.

        Raises:
            ConfigError: always.
        """
        raise ConfigError(_ALREADY)

    def save_pretrained(self, folder: str | Path) -> NoReturn:
        """Refused: the folder of a head holds its unfused weights.

        Raises:
            ConfigError: always.
        """
        raise ConfigError(
            "a fused head cannot be saved; save the unfused head it was made from, and fuse again after loading"
        )
