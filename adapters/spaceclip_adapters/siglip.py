"""SigLIP vision towers of transformers: alone, in SiglipModel, and as the eye of PaliGemma, Gemma 3 and pi0.

Fixed-resolution SigLIP 2 checkpoints use these classes too. NaFlex ones do not: their patch embedding is a linear
layer on packed patches, and they need an adapter of their own.
"""

from __future__ import annotations

from torch import nn

from spaceclip_plugin.towers import ImageStatistics, TokenAdapter


class SiglipAdapter(TokenAdapter):
    """SigLIP pools with an attention head; vision-language models often build the tower without it."""

    def context_of(self, module: nn.Module) -> tuple[str, nn.Module | None]:
        """The pooling head, or where there is none the mean of the normalised patches."""
        head = self.module_at(module, self.context_source)
        if head is not None and not isinstance(head, nn.Identity):
            return self.context, head
        return "mean", self.module_at(module, "post_layernorm")


adapter = SiglipAdapter(
    name="siglip",
    tower_classes=("SiglipVisionTransformer", "SiglipVisionModel"),
    patch_embedding="embeddings.patch_embedding",
    blocks=("encoder.layers",),
    context_source="head",
    context="attention-pool",
    prefix_tokens=0,
    image_size=("config.image_size",),
    statistics=ImageStatistics.SYMMETRIC,
)
