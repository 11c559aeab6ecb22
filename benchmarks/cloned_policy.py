"""A small policy that is cloned from demonstrations: a frozen tower, and an action expert that reads what it sees.

The benchmark `graft_policies.py` trains it, freezes it, and lets grafts and low-rank adapters learn on it.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

WIDTH = 192  # channels of the tower's tokens, and of the expert
CHUNK = 8  # actions that are made of one picture
BLOCKS = 4
STATE = 4  # x, y, z of the hand in metres, and how far the fingers are open

_HEAD = 48
_POOL = 2  # tokens along each side that the expert reads as one
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_DROPOUT = 0.1
_LARGEST_GRADIENT = 1.0
_WARM_UP = 20


class Block(nn.Module):
    """A block of the expert: actions look at each other, then at the picture, then each at itself."""

    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(3))
        self.among = nn.Linear(WIDTH, 3 * WIDTH)
        self.among_out = nn.Linear(WIDTH, WIDTH)
        self.query = nn.Linear(WIDTH, WIDTH)
        self.seen = nn.Linear(WIDTH, 2 * WIDTH)
        self.seen_out = nn.Linear(WIDTH, WIDTH)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 2 * WIDTH), nn.GELU(), nn.Linear(2 * WIDTH, WIDTH))
        self.dropout = nn.Dropout(_DROPOUT)

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        """(B, CHUNK, WIDTH) from the same and (B, N, WIDTH) of the picture."""
        x = x + self.dropout(self.among_out(_attention(*self.among(self.norms[0](x)).chunk(3, dim=-1))))
        keys_and_values = self.seen(memory).chunk(2, dim=-1)
        x = x + self.dropout(self.seen_out(_attention(self.query(self.norms[1](x)), *keys_and_values)))
        result: Tensor = x + self.dropout(self.mlp(self.norms[2](x)))
        return result


class Expert(nn.Module):
    """Actions from tokens of a picture and the state of the arm."""

    mean: Tensor
    deviation: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.start = nn.Parameter(0.02 * torch.randn(CHUNK, WIDTH))
        self.state = nn.Linear(STATE, WIDTH)
        self.memory = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.LayerNorm(WIDTH))
        self.blocks = nn.ModuleList(Block() for _ in range(BLOCKS))
        self.out = nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 4))
        self.register_buffer("mean", torch.zeros(STATE))
        self.register_buffer("deviation", torch.ones(STATE))

    def forward(self, tokens: Tensor, state: Tensor) -> Tensor:
        """(B, CHUNK, 4) actions from (B, N, WIDTH) tokens and (B, STATE)."""
        memory = self.memory(tokens)
        x = self.start + self.state((state - self.mean) / self.deviation)[:, None]
        for block in self.blocks:
            x = block(x, memory)
        actions: Tensor = self.out(x)
        return actions


class Policy(nn.Module):
    """A tower that stays as it is, and an expert."""

    def __init__(self, tower: nn.Module) -> None:
        super().__init__()
        self.tower = tower.requires_grad_(False)
        self.expert = Expert()

    def see(self, images: Tensor) -> Tensor:
        """(B, N, WIDTH) tokens of images (B, H, W, 3) uint8: the tower's last, each of four neighbours."""
        mean, deviation = (torch.tensor(each)[:, None, None] for each in (_MEAN, _STD))
        tower: Any = self.tower
        tokens = tower.forward_features((images.movedim(-1, 1).float() / 255 - mean) / deviation)
        patches = tokens[:, tower.num_prefix_tokens :]
        side = math.isqrt(patches.shape[1])
        cells = patches.reshape(len(patches), side // _POOL, _POOL, side // _POOL, _POOL, WIDTH)
        return cast(Tensor, cells.mean(dim=(2, 4)).flatten(1, 2))

    def forward(self, images: Tensor, state: Tensor) -> Tensor:
        """(B, CHUNK, 4) actions."""
        actions: Tensor = self.expert(self.see(images), state)
        return actions


class LowRank(nn.Module):
    """A linear layer with a matrix of low rank beside it, which starts at zero (LoRA)."""

    def __init__(self, layer: nn.Linear, rank: int) -> None:
        super().__init__()
        self.layer = layer
        self.inward = nn.Parameter(torch.randn(rank, layer.in_features) / math.sqrt(layer.in_features))
        self.outward = nn.Parameter(torch.zeros(layer.out_features, rank))

    def forward(self, x: Tensor) -> Tensor:
        """As the layer, and what was learnt."""
        result: Tensor = self.layer(x) + x @ self.inward.mT @ self.outward.mT
        return result


def with_low_rank(expert: Expert, parameters: int) -> Expert:
    """A copy of a frozen expert, all linear layers of its blocks with low ranks, of about so many parameters."""
    adapted = copy.deepcopy(expert)
    places = [
        (owner, name)
        for owner in adapted.blocks.modules()
        for name, layer in owner.named_children()
        if isinstance(layer, nn.Linear)
    ]
    layers = [cast(nn.Linear, getattr(owner, name)) for owner, name in places]
    rank = max(1, round(parameters / sum(layer.in_features + layer.out_features for layer in layers)))
    for (owner, name), layer in zip(places, layers, strict=True):
        setattr(owner, name, LowRank(layer, rank))
    return adapted


def action_error(actions: Tensor, wanted: Tensor, known: Tensor) -> Tensor:
    """Mean absolute difference of (B, CHUNK, 4) actions, where (B, CHUNK) they are known: the policy's own loss."""
    error = (actions - wanted).abs().mean(dim=-1)
    return torch.where(known, error, 0).sum() / known.sum()


def fit(
    groups: Sequence[dict[str, Any]],
    loss: Callable[[], Tensor],
    validation: Callable[[], float],
    *,
    steps: int,
    every: int,
) -> dict[str, float]:
    """Learn for so many steps, and keep what had the lowest validation error, which is asked for now and then.

    Returns:
        `step` that was kept, 0 where none was better than what was before, and its `error`.
    """
    parameters = [each for group in groups for each in group["params"]]
    optimiser = torch.optim.AdamW(groups, weight_decay=0.05)
    rates = [group["lr"] for group in optimiser.param_groups]
    best, kept, at = validation(), _copied(parameters), 0
    for step in range(1, steps + 1):
        share = min(1.0, step / _WARM_UP) * 0.5 * (1 + math.cos(math.pi * (step - 1) / steps))
        for group, rate in zip(optimiser.param_groups, rates, strict=True):
            group["lr"] = rate * share
        optimiser.zero_grad()
        loss().backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(parameters, _LARGEST_GRADIENT)
        optimiser.step()
        if step % every == 0 and (error := validation()) < best:
            best, kept, at = error, _copied(parameters), step
    with torch.no_grad():
        for parameter, value in zip(parameters, kept, strict=True):
            parameter.copy_(value)
    return {"step": at, "error": best}


def _copied(parameters: Iterable[Tensor]) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in parameters]


def _attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    heads = (each.reshape(*each.shape[:2], -1, _HEAD).transpose(1, 2) for each in (query, key, value))
    return scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2)
