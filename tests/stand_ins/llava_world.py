"""A small LLaVA: a CLIP tower inside a language model, the way a VLA carries it."""

from __future__ import annotations

import copy
import functools

import torch
import transformers
from clip_world import SMALL, VISION, images
from fresh_heads import fresh_head
from packaging.version import Version
from torch import Tensor, nn

from spaceclip_plugin import DepthHead

LANGUAGE = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 64,
    "max_position_embeddings": 64,
    "head_dim": 8,
}
IMAGE_TOKEN = 5
# Up to transformers 4.45, LLaVA's prompt holds one image token and the model makes room for the rest.
IMAGE_TOKENS = 1 if Version(transformers.__version__) < Version("4.46") else 16


def llava_host() -> nn.Module:
    return copy.deepcopy(_llava())


@functools.cache
def _llava() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = transformers.LlavaConfig(
            vision_config=transformers.CLIPVisionConfig(**VISION),
            text_config=transformers.LlamaConfig(**LANGUAGE),
            image_token_index=IMAGE_TOKEN,
        )
        return transformers.LlavaForConditionalGeneration(config).eval()


def small_head() -> DepthHead:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return fresh_head(llava_host(), **SMALL).eval()


def question(seed: int, batch: int = 1) -> dict[str, Tensor]:
    """A picture and a question, as the host takes them."""
    ids = torch.tensor([[1, *[IMAGE_TOKEN] * IMAGE_TOKENS, 7, 8]] * batch)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": images(seed, batch)}


def ask(host: nn.Module, seed: int, batch: int = 1) -> Tensor:
    """The logits of one call of the host."""
    logits: Tensor = host(**question(seed, batch)).logits
    return logits
