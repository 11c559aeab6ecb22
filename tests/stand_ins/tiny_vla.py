"""A tiny policy with a tower and an action expert of a few blocks, cameras with lenses, and a graft for it."""

from __future__ import annotations

from typing import Any

import torch
from small_world import tiny_host, tiny_mixer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from spaceclip_plugin import Intrinsics, attach_depth_head
from spaceclip_plugin.attach import DepthAttachment
from spaceclip_plugin.graft import DepthGraft

WIDTH, ACTIONS, BLOCKS = 16, 3, 3
LENSES = {"front": Intrinsics(32.0, 32.0, 16.0, 16.0, (32, 32)), "wrist": Intrinsics(20.0, 20.0, 16.0, 16.0, (32, 32))}


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 2 * WIDTH), nn.SiLU(), nn.Dropout(0.1), nn.Linear(2 * WIDTH, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.mlp(x)


class TinyVla(nn.Module):
    """Sees with its tower camera by camera, and then makes actions out of noise in two steps."""

    def __init__(self) -> None:
        super().__init__()
        self.tower = tiny_host()
        self.see = nn.Linear(24, WIDTH)
        self.inward = nn.Linear(ACTIONS, WIDTH)
        self.expert = nn.ModuleList(Block() for _ in range(BLOCKS))
        self.outward = nn.Linear(WIDTH, ACTIONS)
        self.checkpointing: bool | None = None  # or whether it is of the reentrant kind

    def forward(self, images: dict[str, Tensor], noise: Tensor, steps: int = 2) -> Tensor:
        seen = sum(self.see(self.tower(image)) for image in images.values())
        actions = noise
        for _ in range(steps):
            x = self.inward(actions) + seen[:, None]
            for block in self.expert:
                x = block(x) if self.checkpointing is None else checkpoint(block, x, use_reentrant=self.checkpointing)
            actions = actions + self.outward(x)
        return actions


def tiny_vla() -> TinyVla:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return TinyVla().requires_grad_(False).eval()


def attached(policy: TinyVla, **options: Any) -> DepthAttachment:
    """The policy with a head that tells uncertainty, and lenses of its cameras unless others are given."""
    head = options.pop("head", None) or tiny_mixer(policy.tower).eval()
    return attach_depth_head(policy, head, **{"cameras": LENSES, **options})


def opened(graft: DepthGraft) -> DepthGraft:
    """The graft as if it were trained: nothing of it is zero."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(4)
        for layer in graft.layers:
            layer.out.weight.normal_(std=0.3)
    return graft


def observation(robots: int = 2, seed: int = 0) -> tuple[dict[str, Tensor], Tensor]:
    """Images of both cameras and noise."""
    generator = torch.Generator().manual_seed(seed)
    images = {name: torch.rand(robots, 3, 32, 32, generator=generator) for name in LENSES}
    return images, torch.randn(robots, 4, ACTIONS, generator=generator)
