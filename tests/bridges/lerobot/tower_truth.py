"""What a tower itself says of its hidden states: its own report, or a walk through its own parts, never our taps."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

Maps = list[Tensor]
"""All hidden states of one image call, each (B, C, h, w): the input of the first block, then what each block gives."""


@dataclass(frozen=True)
class Call:
    """What a module was called with, and whether under autocast."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    autocast: bool


Truth = Callable[[Any, Call], Maps]


@contextmanager
def calls_of(module: nn.Module) -> Iterator[list[Call]]:
    """The arguments of every call of `module` inside the `with`."""
    calls: list[Call] = []

    def note(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        calls.append(Call(args, dict(kwargs), torch.is_autocast_enabled("cpu")))

    handle = module.register_forward_pre_hook(note, with_kwargs=True)
    try:
        yield calls
    finally:
        handle.remove()


def maps_of(tower: Any, calls: list[Call], truth: Truth) -> list[Maps]:
    """Hidden states of each call, from a copy of the tower: transformers leaves hooks behind where it reports them."""
    found = []
    for call in calls:
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=call.autocast):
            found.append(truth(copy.deepcopy(tower), call))
    return found


def reported_tokens(tower: Any, call: Call) -> Maps:
    """Row-major tokens (B, h·w, C) on a square grid, as the tower reports them."""
    hidden = tower(*call.args, **call.kwargs, output_hidden_states=True).hidden_states
    return [_square(tokens) for tokens in hidden]


def walked_siglip(tower: Any, call: Call) -> Maps:
    """Layer by layer: between transformers 5.0 and 5.5 the transformer inside a SigLIP model reports nothing itself."""
    return [_square(tokens) for tokens in _walked(tower, tower.embeddings(_pixels(call)))]


def walked_clip(tower: Any, call: Call) -> Maps:
    """The same for CLIP, behind its class token."""
    hidden = _walked(tower, tower.pre_layrnorm(tower.embeddings(_pixels(call))))
    return [_square(tokens[:, 1:]) for tokens in hidden]


def walked_molmo(tower: Any, call: Call) -> Maps:
    """Block by block, from the patches: `call` is one of the patch embedding, for the tower itself is never called."""
    [patches] = call.args
    grid = tower.config.image_num_patch
    hidden = [tower.add_pos_emb(tower.patch_embedding(patches), grid)]
    for block in tower.transformer.resblocks:
        hidden.append(block(hidden[-1]))
    return [_in_rows(tokens, grid) for tokens in hidden]


def reported_maps(tower: Any, call: Call) -> Maps:
    """Maps through all stages, each of its stage's width and size, as the tower reports them."""
    return list(tower(*call.args, **call.kwargs, output_hidden_states=True).hidden_states)


def walked_stages(tower: Any, call: Call) -> Maps:
    """The same of Florence-2's own code, stage by stage: `call` is one of the first convolution, with the size."""
    value, size = call.args
    hidden: Maps = []
    for embed, blocks in zip(tower.convs, tower.blocks, strict=True):
        value, size = embed(value, size)
        hidden += [] if hidden else [_in_rows(value, size)]
        for block in blocks:
            value, size = block(value, size)
            hidden.append(_in_rows(value, size))
    return hidden


def reported_packed(tower: Any, call: Call) -> Maps:
    """Tokens of all images in one sequence, two by two patches after another, put back into rows."""
    hidden = tower(*call.args, **{**call.kwargs, "output_hidden_states": True}).hidden_states
    merge = tower.spatial_merge_size
    [(_, rows, columns)] = {tuple(grid) for grid in call.kwargs["grid_thw"].tolist()}
    blocks = (-1, rows // merge, columns // merge, merge, merge, hidden[0].shape[-1])
    return [tokens.reshape(blocks).permute(0, 5, 1, 3, 2, 4).flatten(4).flatten(2, 3) for tokens in hidden]


def _pixels(call: Call) -> Tensor:
    pixels: Tensor = call.args[0] if call.args else call.kwargs["pixel_values"]
    return pixels


def _walked(tower: Any, first: Tensor) -> Maps:
    hidden = [first]
    for layer in tower.encoder.layers:
        hidden.append(layer(hidden[-1], None))
    return hidden


def _in_rows(tokens: Tensor, size: tuple[int, int]) -> Tensor:
    return tokens.transpose(1, 2).unflatten(2, size)


def _square(tokens: Tensor) -> Tensor:
    side = int(tokens.shape[1] ** 0.5)
    return _in_rows(tokens, (side, side))
