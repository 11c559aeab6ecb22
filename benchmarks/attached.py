"""A twin of a host with a head attached, beside which the host itself stays as it was."""

from __future__ import annotations

import copy
import itertools

import torch
from torch import Tensor, nn

from spaceclip_plugin import DepthHead, attach_depth_head
from spaceclip_plugin.attach import UnreadFrames
from spaceclip_plugin.towers.spec import TowerFeatures


class Attached:
    """A twin of the host, of modules of its own around the same weights, with a head attached."""

    def __init__(self, host: nn.Module, head: DepthHead) -> None:
        shared = itertools.chain(host.parameters(), host.buffers())
        self.host = copy.deepcopy(host, {id(value): value for value in shared})
        self.depth = attach_depth_head(self.host, head, unread=UnreadFrames(max_frames=1))

    def unread(self, pixels: Tensor) -> Tensor:
        """What the host gives; its features stay unread."""
        return self.host(pixels).last_hidden_state

    def read(self, pixels: Tensor) -> Tensor:
        """Depth in metres."""
        self.host(pixels)
        return self.depth.read()[0].depth_m

    def features(self, pixels: Tensor) -> TowerFeatures:
        """What the head reads, as the host leaves it in memory."""
        with torch.no_grad():
            self.host(pixels)
        return self.depth.features()[0]
