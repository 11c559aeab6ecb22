"""DINOv3 vision transformers of transformers: class and register tokens, rotary positions, any grid."""

from __future__ import annotations

from spaceclip_adapters.dinov2 import RegisterAdapter
from spaceclip_plugin.towers import ImageStatistics

adapter = RegisterAdapter(
    name="dinov3",
    tower_classes=("DINOv3ViTModel",),
    patch_embedding="embeddings.patch_embeddings",
    blocks=("model.layer", "layer"),  # moved in transformers 5.5
    context_source="norm",
    context="cls",
    prefix_tokens=1,
    image_size=("config.image_size",),
    statistics=ImageStatistics.IMAGENET,
)
