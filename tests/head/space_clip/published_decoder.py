"""The published decoder, written down a second time from its description, to compare with."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as f


class PublishedDecoder:
    """The published decoder in eval mode, written down step by step from SPACECLIP.md on the published names."""

    def __init__(self, state: dict[str, Tensor]) -> None:
        self.state = state

    def conv(self, name: str, x: Tensor, padding: int = 0) -> Tensor:
        return f.conv2d(x, self.state[f"{name}.weight"], self.state.get(f"{name}.bias"), padding=padding)

    def norm(self, name: str, x: Tensor) -> Tensor:
        names = ("running_mean", "running_var", "weight", "bias")
        return f.batch_norm(x, *(self.state[f"{name}.{part}"] for part in names))

    def up(self, name: str, x: Tensor) -> Tensor:
        transpose = f"{name}.upsample_low.upsample"
        x = f.conv_transpose2d(x, self.state[f"{transpose}.weight"], self.state[f"{transpose}.bias"], stride=2)
        x = self.conv(f"{name}.upsample_low.conv.0", x, padding=1)
        return f.relu(self.norm(f"{name}.upsample_low.conv.1", x))

    def fuse(self, name: str, parts: list[Tensor]) -> Tensor:
        x = self.conv(f"{name}.fusion_conv.0", torch.cat(parts, dim=1), padding=1)
        return f.relu(self.norm(f"{name}.fusion_conv.1", x))

    def residual(self, name: str, x: Tensor) -> Tensor:
        y = f.relu(self.norm(f"{name}.norm1", self.conv(f"{name}.conv1", x, padding=1)))
        return f.relu(x + self.norm(f"{name}.norm2", self.conv(f"{name}.conv2", y, padding=1)))

    def film(self, k: int, tokens: Tensor, context: Tensor) -> Tensor:
        first, second = (f"film_param_generators.{k}.{layer}" for layer in (0, 2))
        hidden = f.relu(f.linear(context, self.state[f"{first}.weight"], self.state[f"{first}.bias"]))
        both = f.linear(hidden, self.state[f"{second}.weight"], self.state[f"{second}.bias"])
        gamma, beta = both[:, :, None, None].chunk(2, dim=1)
        return gamma * tokens + beta

    def depth(self, semantic: list[Tensor], structural: list[Tensor], context: Tensor, output_hw: Any) -> Tensor:
        fine = []
        for i, tap in enumerate(structural):
            u = self.up(f"structural_decoder_blocks.{i}", fine[-1] if fine else tap)
            skip = resize(self.conv(f"structural_path_projections.{i}", tap), u.shape[-2:])
            fine.append(self.fuse(f"structural_decoder_blocks.{i}", [u, skip]))
        projected = [
            self.conv(f"main_path_projections.{k}", self.film(k, tap, context)) for k, tap in enumerate(semantic)
        ]
        x = projected[0]
        for i, skip in enumerate(projected):
            block = f"main_decoder_blocks.{i}"
            u = self.up(block, x)
            p = resize(skip, u.shape[-2:])
            parts = [u, p * (1 + self.conv(f"{block}.skip_clip_gate.0", u).sigmoid())]
            if i < len(fine):
                q = resize(fine[i], u.shape[-2:])
                parts.append(q * (1 + self.conv(f"{block}.skip_struct_gate.0", u).sigmoid()))
            x = self.residual(f"{block}.fusion_conv.3", self.fuse(block, parts))
        x = f.relu(self.norm("depth_prediction_head.1", self.conv("depth_prediction_head.0", x, padding=1)))
        return resize(f.relu(self.conv("depth_prediction_head.3", x, padding=1)), output_hw)[:, 0]


def resize(x: Tensor, size: Any) -> Tensor:
    return f.interpolate(x, size=tuple(size), mode="bilinear", align_corners=False)
