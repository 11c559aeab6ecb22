"""A small head for a tiny policy, and the policy's actions; the same weights and the same noise at every call."""

from __future__ import annotations

from typing import Any

import torch
from fresh_heads import fresh_head
from torch import Tensor, nn

from spaceclip_plugin import DepthHead

_SMALL = {
    "architecture": "space-clip",
    "channels": (8, 6),
    "semantic_taps": (3, 1),
    "structural_taps": (0,),
    "film_hidden": 4,
}


def small_head(policy: nn.Module, *, seed: int = 3, **options: Any) -> DepthHead:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return fresh_head(policy, **{**_SMALL, **options}).eval()


def actions(policy: Any, batch: dict[str, Any], steps: int = 1) -> Tensor:
    """The next actions of a new episode."""
    policy.reset()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        return torch.stack([policy.select_action(dict(batch)) for _ in range(steps)])
