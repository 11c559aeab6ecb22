"""The plain vision transformer of transformers, ViT, as policies and classifiers embed it."""

from __future__ import annotations

from spaceclip_plugin.towers import ImageStatistics, TokenAdapter

adapter = TokenAdapter(
    name="vit",
    tower_classes=("ViTModel",),
    patch_embedding="embeddings.patch_embeddings.projection",
    blocks=("encoder.layer", "layers"),  # moved in transformers 5
    context_source="layernorm",
    context="cls",
    prefix_tokens=1,
    image_size=("config.image_size",),
    statistics=ImageStatistics.SYMMETRIC,
)
