"""The smallest head that predicts its uncertainty: one linear map of one hidden state."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from spaceclip_plugin import DepthHead
from spaceclip_plugin.head import architectures
from spaceclip_plugin.head.decoder import STANDARD, HeadOutput
from spaceclip_plugin.towers.spec import TowerFeatures


@dataclass(frozen=True)
class UncertainOptions:
    taps: tuple[int, ...] = (1,)
    uses_context: bool = False
    pixels_per_patch: int = 0
    silent: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "taps", tuple(self.taps))

    @classmethod
    def for_blocks(cls, blocks: int, preset: str = STANDARD) -> UncertainOptions:
        return cls()


class UncertainDecoder(nn.Module):
    def __init__(self, width: int, options: UncertainOptions, tap_widths: Mapping[int, int]) -> None:
        super().__init__()
        self.options = options
        self.log_depth = nn.Conv2d(tap_widths[1], 1, 1)
        self.log_spread = nn.Parameter(torch.tensor(-5.0))

    def forward(self, features: TowerFeatures, output_hw: tuple[int, int], *, auxiliary: bool) -> HeadOutput:
        depth = functional.interpolate(self.log_depth(features.hidden[1]).exp(), output_hw, mode="bilinear")[:, 0]
        uncertainty: Tensor = depth.detach() * self.log_spread.exp()
        return HeadOutput(depth, uncertainty_m=None if self.options.silent else uncertainty)

    @property
    def predicts_uncertainty(self) -> bool:
        return not self.options.silent

    def rescale_uncertainty(self, factor: float) -> None:
        with torch.no_grad():
            self.log_spread += math.log(factor)


def uncertain_head(host: nn.Module, monkeypatch: pytest.MonkeyPatch, *, silent: bool = False) -> DepthHead:
    """A head of this architecture, which is known until the test ends."""
    kind = architectures.Architecture(UncertainOptions, UncertainDecoder)
    monkeypatch.setitem(architectures.ARCHITECTURES, "uncertain", kind)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        head = DepthHead.for_tower(host, architecture="uncertain")
    head.config = dataclasses.replace(head.config, options=UncertainOptions(silent=silent))
    head.decoder.options = head.config.options
    return head
