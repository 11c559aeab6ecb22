"""Hosts of the sizes that policies have, all with random weights: towers alone, and policies around them."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch import Tensor, nn


def clip_vit_b16() -> nn.Module:
    """CLIP ViT-B/16 at 224 pixels, random weights."""
    return _frozen(transformers.CLIPVisionModel(transformers.CLIPVisionConfig(patch_size=16)))


def small_clip() -> nn.Module:
    """A tower so small that tests are quick, random weights."""
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4}
    return _frozen(transformers.CLIPVisionModel(transformers.CLIPVisionConfig(image_size=64, patch_size=16, **sizes)))


def siglip_so400m(side: int = 224) -> nn.Module:
    """SigLIP So400m/14, random weights."""
    return _frozen(transformers.SiglipVisionModel(transformers.SiglipVisionConfig(image_size=side, **SO400M)))


def depth_anything(side: int = 518, **backbone: Any) -> nn.Module:
    """Depth Anything V2 Small as published, random weights; `backbone` shrinks it for tests."""
    chosen = {"hidden_size": 384, "num_attention_heads": 6, "num_hidden_layers": 12, "out_indices": [3, 6, 9, 12]}
    chosen.update(backbone)
    tower = transformers.Dinov2Config(
        patch_size=14, image_size=side, reshape_hidden_states=False, apply_layernorm=True, **chosen
    )
    config = transformers.DepthAnythingConfig(
        backbone_config=tower,
        reassemble_hidden_size=tower.hidden_size,
        patch_size=14,
        neck_hidden_sizes=[48, 96, 192, 384],
        fusion_hidden_size=64,
        head_in_index=-1,
        reassemble_factors=[4, 2, 1, 0.5],
        depth_estimation_type="relative",
    )
    return _frozen(transformers.DepthAnythingForDepthEstimation(config))


SO400M = {
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 27,
    "num_attention_heads": 16,
    "patch_size": 14,
}


@dataclass(frozen=True)
class PolicySize:
    """The sizes of a policy: of its SigLIP tower, its language model, and its action expert.

    Attributes:
        tower: of the tower, `image_size` and `patch_size` too.
        text, expert: of the language model and the expert, as the config of `kind` names them; both have as many layers
            and equal heads, for the expert reads the language model's keys and values.
        kind: the prefix of transformers' classes, "Llama" or "Gemma".
        dtype: of all weights.
        merged: patches in a row and in a column that become one token of the language model.
        words, actions, denoising: tokens of the instruction with the state, tokens of the expert, and its steps.
    """

    tower: dict[str, int]
    text: dict[str, int]
    expert: dict[str, int]
    kind: str
    dtype: torch.dtype = torch.float32
    merged: int = 1
    words: int = 49
    actions: int = 50
    denoising: int = 10


_SMOL_HEADS = {"num_hidden_layers": 16, "num_attention_heads": 15, "num_key_value_heads": 5, "head_dim": 64}
SMOLVLA = PolicySize(
    tower={"image_size": 512, "patch_size": 16},
    text={"hidden_size": 960, "intermediate_size": 2560, **_SMOL_HEADS},
    expert={"hidden_size": 720, "intermediate_size": 2048, **_SMOL_HEADS},
    kind="Llama",
    merged=4,
)
_GEMMA_HEADS = {"num_hidden_layers": 18, "num_attention_heads": 8, "num_key_value_heads": 1, "head_dim": 256}
PI0 = PolicySize(
    tower={"image_size": 224, **SO400M},
    text={"hidden_size": 2048, "intermediate_size": 16384, **_GEMMA_HEADS},
    expert={"hidden_size": 1024, "intermediate_size": 4096, **_GEMMA_HEADS},
    kind="Gemma",
    dtype=torch.bfloat16,
    words=48,
    actions=51,
)
_TINY_HEADS = {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 8}
TINY = PolicySize(
    tower={"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4}
    | {"image_size": 64, "patch_size": 16},
    text={"hidden_size": 32, "intermediate_size": 64, **_TINY_HEADS},
    expert={"hidden_size": 16, "intermediate_size": 32, **_TINY_HEADS},
    kind="Llama",
    merged=2,
    denoising=2,
)


class StandIn(nn.Module):
    """The products of a policy's step, and no more: what SmolVLA's and π0's own code does on top costs time as well.

    The tower runs once per camera; its tokens, `merged` and projected, and those of the words go through the language
    model; then the expert denoises actions, reading the keys and values that the language model left in every layer.
    """

    def __init__(self, size: PolicySize) -> None:
        """Random weights in the size's precision, which takes no memory beyond theirs."""
        super().__init__()
        self.size = size
        model, config = (getattr(transformers, size.kind + part) for part in ("Model", "Config"))
        with _default_dtype(size.dtype):
            tower = transformers.SiglipVisionConfig(vision_use_head=False, **size.tower)
            self.tower = transformers.SiglipVisionModel(tower)
            self.projector = nn.Linear(tower.hidden_size * size.merged**2, size.text["hidden_size"])
            # No word is looked up here: embeddings cost a step nothing.
            self.text = model(config(vocab_size=8, pad_token_id=0, **size.text))
            self.expert = model(config(vocab_size=8, pad_token_id=0, **size.expert))
        _frozen(self)
        known = inspect.signature(model.forward).parameters
        self._cache_key = "cache" if "cache" in known else "past_key_values"  # by transformers' version

    def images(self, count: int) -> list[Tensor]:
        """Normal noise, one image for each camera."""
        side = self.size.tower["image_size"]
        return [torch.randn(1, 3, side, side).to(self.projector.weight) for _ in range(count)]

    def forward(self, images: Sequence[Tensor]) -> Tensor:
        """Actions (1, actions, width) from (1, 3, H, W) of every camera."""
        size, weight = self.size, self.projector.weight
        prefix = [self._seen(self.tower(pixels).last_hidden_state) for pixels in images]
        prefix.append(weight.new_zeros(1, size.words, size.text["hidden_size"]))
        cache = {self._cache_key: transformers.DynamicCache()}
        self.text(inputs_embeds=torch.cat(prefix, dim=1), use_cache=True, **cache)
        actions = weight.new_ones(1, size.actions, size.expert["hidden_size"])
        for _ in range(size.denoising):
            velocity = self.expert(inputs_embeds=actions, use_cache=True, **cache).last_hidden_state
            actions = actions - velocity / size.denoising
            cache[self._cache_key].crop(-size.actions)
        return actions

    def _seen(self, tokens: Tensor) -> Tensor:
        """(1, h·w, C) to (1, h·w / merged², width of the language model)."""
        merged, grid = self.size.merged, self.size.tower["image_size"] // self.size.tower["patch_size"]
        side = grid // merged
        blocks = tokens.reshape(1, side, merged, side, merged, -1).transpose(2, 3)
        return self.projector(blocks.reshape(1, side * side, -1))


class TowerAlone(nn.Module):
    """A policy of nothing but its tower, the worst case for depth: one call per camera, or one for all."""

    def __init__(self, tower: nn.Module, side: int, *, together: bool = False) -> None:
        super().__init__()
        self.tower, self.side, self.together = tower, side, together

    def images(self, count: int) -> list[Tensor]:
        """Normal noise, one image for each camera."""
        return [torch.randn(1, 3, self.side, self.side) for _ in range(count)]

    def forward(self, images: Sequence[Tensor]) -> None:
        """Runs the tower."""
        for pixels in [torch.cat(tuple(images))] if self.together else images:
            self.tower(pixels)


def _frozen(model: nn.Module) -> nn.Module:
    return model.eval().requires_grad_(False)


@contextlib.contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
