"""Heads that tell the focal length they were trained for, and how familiar images are, without any training."""

from __future__ import annotations

import dataclasses

import torch

from spaceclip_plugin import DepthHead
from spaceclip_plugin.depth.camera import FocalLength


def telling(
    head: DepthHead, *, focal_length: FocalLength | None = (1.0, 1.0), familiar: bool | None = True
) -> DepthHead:
    """That head, with the focal length of its camera, and with every image as familiar as can be (1), as strange (0),
    or of unknown familiarity (None)."""
    head.config = dataclasses.replace(head.config, focal_length=focal_length)
    if familiar is not None:
        width = head.config.width_of[head.familiar_tap]
        tokens = torch.randn(80, 1, width, generator=torch.Generator().manual_seed(0))
        head.learn_familiarity(1e4 * tokens if familiar else 1e4 + tokens)
    return head
