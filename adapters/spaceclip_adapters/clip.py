"""CLIP vision towers of transformers: alone, in CLIPModel, and as the eye of LLaVA and its relatives.

The tower class is `CLIPVisionTransformer` up to transformers 5.5 and `CLIPVisionModel` from 5.6 on, which took over
its parts; the older `CLIPVisionModel` has none of them itself and is passed over for the transformer inside it.
"""

from __future__ import annotations

from spaceclip_plugin.towers import ImageStatistics, TokenAdapter

OPENAI_CLIP = ImageStatistics(
    mean=(0.48145466, 0.4578275, 0.40821073),
    std=(0.26862954, 0.26130258, 0.27577711),
)
"""Statistics of the images OpenAI trained CLIP on, kept by nearly every CLIP since."""

adapter = TokenAdapter(
    name="clip",
    tower_classes=("CLIPVisionTransformer", "CLIPVisionModel"),
    patch_embedding="embeddings.patch_embedding",
    blocks=("encoder.layers",),
    context_source="post_layernorm",
    context="cls",
    prefix_tokens=1,
    image_size=("config.image_size",),
    statistics=OPENAI_CLIP,
)
