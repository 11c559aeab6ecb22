"""The tap mixer as one module, for inference: right after a host's step caches are cold, and what walks through thirty
modules and their dictionaries waits for memory more than for their products.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from itertools import islice
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, gelu, layer_norm, linear

from spaceclip_plugin.head.decoder import HeadOutput
from spaceclip_plugin.head.grid_layers import KERNEL, added, doubled, kept, patch_mask
from spaceclip_plugin.head.tap_mixer import UPSAMPLED, TapMixerDecoder, output_of, precise, split_maps
from spaceclip_plugin.towers import TowerFeatures

_LAST = "last_bias"


def fused_tap_mixer(decoder: TapMixerDecoder) -> nn.Module:
    """The fused form, or a copy of a decoder that has parts it lacks: attention, a path from pixels, several grids."""
    options = decoder.options
    if options.attention or options.pixels or decoder.several_grids:
        return copy.deepcopy(decoder)
    return FusedTapMixer(decoder)


class FusedTapMixer(nn.Module):
    """What a `TapMixerDecoder` computes in eval mode, from copies of its weights that lie in the order of their use.

    The taps' products are summed where the first one lies, with one bias, and the last layers are one.
    """

    def __init__(self, decoder: TapMixerDecoder) -> None:
        super().__init__()
        self.options = decoder.options
        for name, weight in _in_order(decoder):
            self.register_parameter(name.replace(".", "_"), nn.Parameter(weight.detach().clone()))

    def forward(self, features: TowerFeatures, output_hw: tuple[int, int], *, auxiliary: bool) -> HeadOutput:
        """Decode patch maps (B, C, h, w) of one grid into depth at `output_hw`; there are no auxiliary outputs."""
        weights = cast(Iterator[Tensor], iter(self._parameters.values()))
        x = self._summed(features, weights)
        mask = patch_mask(features.valid, x)
        x = kept(x, mask)
        for i, blocks in enumerate(self.options.convolutions):
            if i:
                x = doubled(_product(_normed(x, weights), weights))
                mask = None if mask is None else doubled(mask.expand(-1, -1, -1, 4))
            for _ in range(blocks):
                x = _block(kept(x, mask), weights)
        x = _normed(x, weights)
        weight, bias = weights
        return output_of(*split_maps(precise(x, weight, bias), self.options), mask, output_hw, weight.dtype)

    @property
    def predicts_uncertainty(self) -> bool:
        """Whether there is an `uncertainty_m`."""
        return self.options.uncertainty

    @property
    def predicts_empty(self) -> bool:
        """Whether there is an `empty`."""
        return self.options.empty

    @property
    def shows_faults(self) -> bool:
        """As of the decoder that it was made from."""
        return True

    @torch.no_grad()
    def rescale_uncertainty(self, factor: float) -> None:
        """From now on the uncertainty is `factor` times what it was, within `LOG_SIGMA_LIMITS`."""
        if self.options.uncertainty:
            self.get_parameter(_LAST)[UPSAMPLED].add_(math.log(factor))

    def _summed(self, features: TowerFeatures, weights: Iterator[Tensor]) -> Tensor:
        bias = next(weights)
        first, *others = self.options.taps
        total = linear(_normed(features.hidden[first].permute(0, 2, 3, 1), weights), next(weights), bias)
        for tap in others:
            tokens = _normed(features.hidden[tap].permute(0, 2, 3, 1), weights)
            # Of one dtype, as autocast may have lowered the first product's; it leaves this one, in place, alone.
            total.flatten(0, 2).addmm_(tokens.flatten(0, 2).to(total), next(weights).t().to(total))
        return total


def _in_order(decoder: TapMixerDecoder) -> Iterator[tuple[str, Tensor]]:
    """The weights of the fused form by name, in the order in which its `forward` takes them."""
    weights = dict(decoder.named_parameters())
    taps = range(len(decoder.options.taps))
    bias = weights[f"projections.{taps[0]}.1.bias"]
    yield "bias", torch.stack([weights[f"projections.{tap}.1.bias"].double() for tap in taps]).sum(dim=0).to(bias)
    for tap in taps:
        for name in ("0.weight", "0.bias", "1.weight"):
            yield f"projections.{tap}.{name}", weights[f"projections.{tap}.{name}"]
    for i, stage in enumerate(decoder.stages):
        if i:
            yield from decoder.climbs[i - 1].named_parameters(f"climbs.{i - 1}")
        yield from stage.named_parameters(f"stages.{i}")
    yield from decoder.norm.named_parameters("norm")
    last = [layer for layer in (decoder.out, decoder.spread, decoder.emptiness) if layer is not None]
    yield "last_weight", torch.cat([layer.weight for layer in last])
    yield _LAST, torch.cat([layer.bias for layer in last])


def _normed(x: Tensor, weights: Iterator[Tensor]) -> Tensor:
    weight, bias = islice(weights, 2)
    return layer_norm(x, (len(weight),), weight, bias)


def _product(x: Tensor, weights: Iterator[Tensor]) -> Tensor:
    weight, bias = islice(weights, 2)
    return linear(x, weight, bias)


def _block(x: Tensor, weights: Iterator[Tensor]) -> Tensor:
    """As `Block.forward`."""
    weight, bias = islice(weights, 2)
    mixed = conv2d(x.permute(0, 3, 1, 2), weight, bias, padding=KERNEL // 2, groups=len(weight)).permute(0, 2, 3, 1)
    return added(x, _product(gelu(_product(_normed(mixed, weights), weights)), weights))
