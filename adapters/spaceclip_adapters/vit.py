"""The plain vision transformer of transformers, ViT, as policies and classifiers embed it."""

from __future__ import annotations

from spaceclip_plugin.towers.spec import CLS
from spaceclip_plugin.towers.token_adapter import SYMMETRIC, TokenTowerAdapter

adapter = TokenTowerAdapter(
    name="vit",
    tower_classes=("ViTModel",),
    patch_embedding="embeddings.patch_embeddings.projection",
    blocks=("encoder.layer", "layers"),  # moved in transformers 5
    context_source="layernorm",
    context=CLS,
    prefix_tokens=1,
    image_size=("config.image_size",),
    statistics=SYMMETRIC,
)
