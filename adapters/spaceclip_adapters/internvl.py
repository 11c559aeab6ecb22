"""The vision tower of InternVL in transformers: a class token before the patches of square tiles.

Checkpoints that average their patches have no final norm; the class token is the context either way.
"""

from __future__ import annotations

from torch import nn

from spaceclip_plugin.towers import ImageStatistics, TokenAdapter


class InternVLAdapter(TokenAdapter):
    """The final norm is an identity where the model averages its patches."""

    def context_of(self, module: nn.Module) -> tuple[str, nn.Module | None]:
        """The class token, normalised or not."""
        norm = self.module_at(module, self.context_source)
        return "raw-cls" if isinstance(norm, nn.Identity) else "cls", norm


adapter = InternVLAdapter(
    name="internvl",
    tower_classes=("InternVLVisionModel",),
    patch_embedding="embeddings.patch_embeddings.projection",
    blocks=("encoder.layer",),
    context_source="layernorm",
    context="cls",
    prefix_tokens=1,
    image_size=("config.image_size",),
    statistics=ImageStatistics.IMAGENET,
)
