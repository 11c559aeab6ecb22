"""A decoder that reads what it is told to, and heads that know what random images look like to a host."""

from __future__ import annotations

import torch
from clip_world import images
from torch import Tensor, nn

from spaceclip_plugin import DepthHead, attach_depth_head
from spaceclip_plugin.head.decoder import HeadOutput
from spaceclip_plugin.towers import TowerFeatures


class Reads(nn.Module):
    """A decoder that reads the same whatever it sees."""

    def __init__(self, depth_m: Tensor) -> None:
        super().__init__()
        self.depth_m = nn.Parameter(depth_m, requires_grad=False)

    def forward(self, features: TowerFeatures, _output_hw: object, *, auxiliary: bool) -> HeadOutput:
        depth_m = self.depth_m.repeat(len(next(iter(features.hidden.values()))), 1, 1)
        return HeadOutput(depth_m, (), 0.1 * depth_m)


def knowing(head: DepthHead, host: nn.Module) -> DepthHead:
    """The head, having learnt what random images look like to its host."""
    with attach_depth_head(host, head) as depth, torch.no_grad():
        host(images(7, batch=200))
        [features] = depth.features()
    head.learn_familiarity(features.hidden[head.familiar_tap].mean(dim=(2, 3))[:, None])
    return head
