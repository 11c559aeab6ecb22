"""open_clip's own VisionTransformer, and OpenAI's original of it, which has the same parts.

Only the image side owns a `conv1`, so the text tower's `transformer.resblocks` are never taken. Models with a timm
trunk belong to the timm adapter.

Blocks work on (N, B, C) up to open_clip 2.24 and on (B, N, C) later. Shapes cannot tell the two apart where a batch
has as many images as an image has tokens, so the layout is read off the modules: the attention's `batch_first`, else
the transformer's. From 4.0 on neither has it, and the order is (B, N, C).
"""

from __future__ import annotations

from torch import Tensor, nn

from spaceclip_adapters.clip import OPENAI_CLIP
from spaceclip_plugin.towers import RawFrame, TokenAdapter, Tower


class OpenClipAdapter(TokenAdapter):
    """CLIP towers whose token layout and pooling depend on version and model."""

    def batch_first(self, raw: Tensor, frame: RawFrame, tower: Tower) -> Tensor:
        """The raw activation of a block as (B, N, C)."""
        declared = self.attribute_at(tower.blocks[0], "attn.batch_first")
        if declared is None:
            declared = self.attribute_at(tower.module, "transformer.batch_first")
        return raw.transpose(0, 1) if declared is False and raw.ndim == 3 else raw

    def context_of(self, module: nn.Module) -> tuple[str, nn.Module | None]:
        """`ln_post`, on all tokens or the pooled one; with an attentional pool (CoCa) the mean of the last block.

        CoCa's pool leaves the tower's width for the embedding's, and nothing normalises the tokens before it.
        """
        if self.attribute_at(module, "attn_pool") is not None:
            stack = self.stack_at(module, *self.blocks)
            return "raw-mean", None if stack is None else stack[-1]
        # `pool_type` from 2.23 on, `global_average_pool` before.
        averages = (
            self.attribute_at(module, "pool_type") == "avg" or self.attribute_at(module, "global_average_pool") is True
        )
        return "mean" if averages else self.context, self.module_at(module, self.context_source)


adapter = OpenClipAdapter(
    name="open-clip",
    tower_classes=("VisionTransformer",),
    patch_embedding="conv1",
    blocks=("transformer.resblocks",),
    context_source="ln_post",
    context="cls",
    prefix_tokens=1,
    # OpenAI's original calls it the input resolution.
    image_size=("image_size", "input_resolution"),
    statistics=OPENAI_CLIP,
)
