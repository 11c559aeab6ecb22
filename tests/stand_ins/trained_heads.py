"""Heads that say they were trained on a tower, and towers that are not quite that one."""

from __future__ import annotations

import dataclasses

import torch
from clip_world import SMALL
from fresh_heads import fresh_head
from torch import nn

from spaceclip_plugin import DepthHead
from spaceclip_plugin.attach.tower_match import TowerMatch, fingerprint_of, match_tower
from spaceclip_plugin.towers import registry

NO_CONTEXT = {**SMALL, "film_hidden": None}


def trained_on(host: nn.Module, *, known: bool = True, **options: object) -> DepthHead:
    """A head with the fingerprint of the host's tower, or without one where it is not `known`."""
    [tower] = registry.find_towers(host)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        head = fresh_head(tower, **(options or NO_CONTEXT)).eval()  # type: ignore[arg-type]
    fingerprint = fingerprint_of(tower, head.config) if known else None
    head.config = dataclasses.replace(
        head.config, trained_on="numbers", base_model="timm:the_one", tower_fingerprint=fingerprint
    )
    return head


def matched(host: nn.Module, head: DepthHead) -> TowerMatch:
    [tower] = registry.find_towers(host)
    return match_tower(tower, head.config)


@torch.no_grad()
def moved(module: nn.Module, by: float, seed: int = 0) -> None:
    """Move every parameter by a random part of its norm."""
    random = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        step = torch.randn(parameter.shape, generator=random).to(parameter)
        parameter += by * step * parameter.norm() / step.norm()
