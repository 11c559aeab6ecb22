"""Small models of transformers as tests save them to a folder."""

from __future__ import annotations

from collections.abc import Callable

import transformers
from torch import nn

SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "image_size": 32,
    "patch_size": 16,
}
TEXT = {**SIZES, "num_hidden_layers": 1, "vocab_size": 64, "max_position_embeddings": 8, "eos_token_id": 2}


def vit() -> nn.Module:
    return transformers.ViTModel(transformers.ViTConfig(**SIZES))


def clip() -> nn.Module:
    text = {**TEXT, "bos_token_id": 1}
    return transformers.CLIPModel(transformers.CLIPConfig(text_config=text, vision_config=SIZES, projection_dim=16))


def siglip() -> nn.Module:
    return transformers.SiglipVisionModel(transformers.SiglipVisionConfig(**SIZES))


POOLED: dict[str, Callable[[], nn.Module]] = {
    "vit": vit,
    "deit": lambda: transformers.DeiTModel(transformers.DeiTConfig(**SIZES)),
    "beit": lambda: transformers.BeitModel(transformers.BeitConfig(**SIZES)),
    "dpt": lambda: transformers.DPTModel(transformers.DPTConfig(**SIZES, backbone_out_indices=[0, 1, 1, 1])),
}
