"""DINOv2 of transformers, with and without register tokens; any grid, for its positions are interpolated."""

from __future__ import annotations

from spaceclip_plugin.towers import ImageStatistics, TokenAdapter, Tower


class RegisterAdapter(TokenAdapter):
    """Towers whose configuration counts register tokens, which follow the class token."""

    def min_prefix(self, tower: Tower) -> int:
        """Class token and registers."""
        registers = self.attribute_at(tower.module, "config.num_register_tokens")
        return self.prefix_tokens + (registers if isinstance(registers, int) else 0)


adapter = RegisterAdapter(
    name="dinov2",
    tower_classes=("Dinov2Model", "Dinov2WithRegistersModel"),
    patch_embedding="embeddings.patch_embeddings.projection",
    blocks=("encoder.layer", "encoder.layers", "layers"),
    context_source="layernorm",
    context="cls",
    prefix_tokens=1,
    image_size=("config.image_size",),
    statistics=ImageStatistics.IMAGENET,
)
