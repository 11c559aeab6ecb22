"""The vision tower of InternVL in transformers: a class token before the patches of square tiles.

Checkpoints that average their patches have no final norm; the class token is the context either way.
"""

from __future__ import annotations

from spaceclip_plugin.token_adapter import IMAGENET, TokenTowerAdapter
from spaceclip_plugin.tower import CLS

adapter = TokenTowerAdapter(
    name="internvl",
    tower_classes=("InternVLVisionModel",),
    patch_embedding="embeddings.patch_embeddings.projection",
    blocks=("encoder.layer",),
    context_source="layernorm",
    context=CLS,
    prefix_tokens=1,
    image_size=("config.image_size",),
    statistics=IMAGENET,
)
