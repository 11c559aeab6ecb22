"""A decoder at a fraction of a tower's cost: all mixing on the patch grid, all detail by learned upsampling.
The map holds log depth, so that errors count in proportion to distance."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, pad, pixel_shuffle, scaled_dot_product_attention, unfold
from typing_extensions import Self

from spaceclip_plugin import _checks
from spaceclip_plugin.errors import ConfigError
from spaceclip_plugin.head.decoder import STANDARD, DecoderOptions, HeadOutput, since
from spaceclip_plugin.head.grid_layers import Block, added, doubled, dropped, kept, patch_mask, sized
from spaceclip_plugin.head.pixel_path import STRIDES, PixelPath
from spaceclip_plugin.towers import TowerFeatures

REFERENCE_BLOCKS = 12
HEAD_CHANNELS = 48  # of one attention head
CONVEX = 4  # factor of the convex upsampling
NEIGHBOURS = 9
UPSAMPLED = 1 + NEIGHBOURS * CONVEX**2  # channels of what the last layer says: log depth, and how it is upsampled
LOG_DEPTH_LIMIT = 7.0  # depth stays between a millimetre and a kilometre, and finite, whatever the weights
LOG_SIGMA_LIMITS = (-7.0, 2.0)
LastMaps = tuple[Tensor, Tensor | None, Tensor | None]
"""Of `out` (B, UPSAMPLED, h, w), of `spread` log sigma (B, 1, h, w), of `emptiness` logits, where there are these."""
# A fresh head says two metres, give or take a fifth, and that something is there.
_START_LOG_M, _START_LOG_SIGMA, _START_EMPTY = 0.7, -1.5, -3.0


@dataclass(frozen=True)
class TapMixerOptions:
    """Settings of the tap mixer; the defaults are for a 12-block tower."""

    taps: tuple[int, ...] = (3, 6, 9, 12)  # hidden states that are summed, ascending
    channels: tuple[int, ...] = (192, 128)  # at the patch grid and after every doubling of it
    attention: int = 0  # blocks at the patch grid; the tower's tokens have attended to each other already
    convolutions: tuple[int, ...] = (2, 1)  # depthwise blocks for every entry of `channels`
    uncertainty: bool = True  # whether the standard deviation of the depth is predicted too
    dropout: float = 0.1  # probability that a channel of a block's update is dropped, in training
    pixels: int = field(default=0, metadata=since(4, 0))  # channels of a path from the image, at twice the last grid
    empty: bool = field(default=False, metadata=since(4, False))  # whether it is told where nothing is, such as sky

    def __post_init__(self) -> None:
        taps = _checks.wholes("taps", self.taps, 0, 512, length=(1, 64))
        if list(taps) != sorted(set(taps)):
            raise ConfigError(f"taps must ascend without repeats, got {_checks.shown(self.taps)}")
        channels = _checks.wholes("channels", self.channels, 2, 4096, length=(1, 5))
        count = len(channels)
        convolutions = _checks.wholes("convolutions", self.convolutions, 0, 16, length=count)
        _checks.whole("attention", self.attention, 0, 16)
        _checks.whole("pixels", self.pixels, 0, 1024)
        if self.attention and channels[0] % HEAD_CHANNELS:
            raise ConfigError(
                f"channels[0] must be a multiple of {HEAD_CHANNELS} where there is attention, got {channels[0]}; "
                "choose another width or attention=0"
            )
        _checks.truth("uncertainty", self.uncertainty)
        _checks.truth("empty", self.empty)
        object.__setattr__(self, "dropout", _checks.real("dropout", self.dropout, 0.0, 0.9))
        for name, value in (("taps", taps), ("channels", channels), ("convolutions", convolutions)):
            object.__setattr__(self, name, value)  # lists, as JSON gives them, become tuples

    @property
    def uses_context(self) -> bool:
        """False: the tower's global vector is not read, so that any tower will do."""
        return False

    @property
    def pixels_per_patch(self) -> int:
        """So many that each cell of the finest grid is what the path's convolutions make of four by four."""
        return 2 ** (len(self.channels) + STRIDES) if self.pixels else 0

    @classmethod
    def for_blocks(cls, blocks: int, preset: str = STANDARD) -> Self:
        """A preset with its taps at the same fractions of a tower of `blocks` blocks."""
        chosen = cls(**PRESETS[preset])
        scaled = {(2 * tap * blocks + REFERENCE_BLOCKS) // (2 * REFERENCE_BLOCKS) for tap in chosen.taps}
        return replace(chosen, taps=tuple(sorted(scaled)))


PRESETS: dict[str, dict[str, Any]] = {
    STANDARD: {},
    # For scale alone, on the patch grid: outlines are a patch wide.
    "light": {"taps": (6, 12), "channels": (128,), "convolutions": (2,)},
    # For hands and what they reach for: an early tap and the tower's own image, for outlines.
    "fine": {"taps": (1, 3, 6, 9, 12), "channels": (128, 64), "pixels": 32},
}


class TapMixerDecoder(nn.Module):
    """Patch maps → metric depth and its standard deviation. Maps are (B, h, w, C) inside, as towers leave them."""

    def __init__(self, width: int, options: TapMixerOptions, tap_widths: Mapping[int, int]) -> None:
        super().__init__()
        self.options = options
        self.several_grids = len(set(tap_widths.values())) > 1  # a stage of another width has another grid
        channels = options.channels
        self.projections = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(tap_widths[tap]), nn.Linear(tap_widths[tap], channels[0]))
            for tap in options.taps
        )
        self.attention = nn.ModuleList(_Attention(channels[0], options.dropout) for _ in range(options.attention))
        self.stages = nn.ModuleList(
            nn.ModuleList(Block(c, options.dropout) for _ in range(count))
            for c, count in zip(channels, options.convolutions, strict=True)
        )
        self.climbs = nn.ModuleList(  # the upsamplers; this name and `spread` (log sigma) are those in saved weights
            nn.Sequential(nn.LayerNorm(a), nn.Linear(a, 4 * b)) for a, b in itertools.pairwise(channels)
        )
        self.pixels = PixelPath(channels[-1], options.pixels, options.dropout) if options.pixels else None
        last = options.pixels or channels[-1]
        self.norm = nn.LayerNorm(last)
        self.out = PreciseLinear(last, UPSAMPLED)
        self.spread = PreciseLinear(last, 1) if options.uncertainty else None
        self.emptiness = PreciseLinear(last, 1) if options.empty else None  # logit
        self._start_smooth()

    @torch.no_grad()
    def _start_smooth(self) -> None:
        """A fresh head's depth is bilinear between the patches: no lattice to unlearn."""
        for climb in [*self.climbs, *([] if self.pixels is None else [self.pixels.climb])]:
            layer = cast(nn.Linear, cast(nn.Sequential, climb)[1])
            for values in (layer.weight, layer.bias):  # all four cells alike (Aitken et al., 2017)
                first = values[: len(values) // 4].clone()
                values.copy_(first.repeat(4, *[1] * (first.ndim - 1)))
        self.out.weight[1:].mul_(0.1)
        self.out.bias[0] = _START_LOG_M
        places = (torch.arange(CONVEX) + 0.5) / CONVEX - 0.5
        line = (1 - (places - torch.tensor([[-1.0], [0.0], [1.0]])).abs()).clamp_min(0.01)  # (3, 4)
        self.out.bias[1:] = torch.einsum("ik,jl->ijkl", line, line).flatten().log()  # shares, none of them zero
        if self.spread is not None:
            self.spread.bias.fill_(_START_LOG_SIGMA)
        if self.emptiness is not None:
            self.emptiness.bias.fill_(_START_EMPTY)

    def forward(self, features: TowerFeatures, output_hw: tuple[int, int], *, auxiliary: bool) -> HeadOutput:
        """Decode patch maps (B, C, h, w) into depth at `output_hw`; there are no auxiliary outputs."""
        x = self._summed(features)
        mask = patch_mask(features.valid, x)
        x = kept(x, mask)
        for attention in self.attention:
            x = kept(attention(x, mask), mask)
        for i, stage in enumerate(self.stages):
            if i:
                x = doubled(self.climbs[i - 1](x))
                mask = None if mask is None else doubled(mask.expand(-1, -1, -1, 4))
            for block in cast(nn.ModuleList, stage):
                x = block(kept(x, mask))
        if self.pixels is not None:
            mask = None if mask is None else doubled(mask.expand(-1, -1, -1, 4))
            x = self.pixels(x, cast(Tensor, features.pixels), mask)  # there, for the head has checked
        return output_of(*self._last(self.norm(x)), mask, output_hw, self.out.weight.dtype)

    @property
    def predicts_uncertainty(self) -> bool:
        """Whether there is an `uncertainty_m`."""
        return self.spread is not None

    @property
    def predicts_empty(self) -> bool:
        """Whether there is an `empty`."""
        return self.emptiness is not None

    @property
    def shows_faults(self) -> bool:
        """True: the layer norms, which come first, leave no infinity that could pass for a large number."""
        return True

    @torch.no_grad()
    def rescale_uncertainty(self, factor: float) -> None:
        """From now on the uncertainty is `factor` times what it was, within `LOG_SIGMA_LIMITS`."""
        if self.spread is not None:
            self.spread.bias.add_(math.log(factor))

    def _last(self, x: Tensor) -> LastMaps:
        """What `out`, `spread` and `emptiness` say of x; in one product where no one learns from it."""
        if torch.is_grad_enabled():
            # Detached: learning how wrong the depth is must not change the depth.
            log_sigma = None if self.spread is None else self.spread(x.detach())
            return self.out(x), log_sigma, None if self.emptiness is None else self.emptiness(x)
        layers = [layer for layer in (self.out, self.spread, self.emptiness) if layer is not None]
        joined = precise(x, torch.cat([layer.weight for layer in layers]), torch.cat([layer.bias for layer in layers]))
        return split_maps(joined, self.options)

    def _summed(self, features: TowerFeatures) -> Tensor:
        taps, hidden = self.options.taps, features.hidden
        middle = taps[len(taps) // 2]
        grid_hw = hidden[middle].shape[-2:]
        parts: list[Tensor] = []
        for tap, projection in zip(taps, self.projections, strict=True):
            part: Tensor = projection(hidden[tap].permute(0, 2, 3, 1))
            # Where grids may differ no one asks whether they do: that would tie them together in an exported graph.
            if tap != middle and (self.several_grids or hidden[tap].shape[-2:] != grid_hw):
                part = kept(part, patch_mask(features.valid, part))  # before padding mixes with what is real
                part = interpolate(part.permute(0, 3, 1, 2), size=grid_hw, mode="bilinear", align_corners=False)
                part = part.permute(0, 2, 3, 1)
            parts.append(part)
        return functools.reduce(added, parts)


class PreciseLinear(nn.Linear):
    """A linear layer that computes in float32 at least, under autocast and in a head of half precision too:
    half precision holds log depth at nine metres to 1.6 %. What it gives lies channels first, as it is upsampled."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, h, w, in) in any precision to (B, out, h, w) in float32 or float64."""
        return precise(x, self.weight, self.bias)


def precise(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """What a `PreciseLinear` of these weights gives."""
    batch, h, w, _ = x.shape
    dtype = torch.promote_types(x.dtype, torch.float32)
    tokens = x.to(dtype).flatten(1, 2).transpose(1, 2)
    maps = bias.to(dtype)[:, None].expand(batch, -1, h * w).clone(memory_format=torch.contiguous_format)
    # Autocast leaves what is done in place alone; switching it off around this would take half as long as the product.
    return maps.baddbmm_(weight.to(dtype).expand(batch, -1, -1), tokens).view(batch, -1, h, w)


def split_maps(maps: Tensor, options: TapMixerOptions) -> LastMaps:
    """What `out`, `spread` and `emptiness` say, out of one product of all of them."""
    parts = iter(torch.split(maps, [UPSAMPLED] + [1] * (options.uncertainty + options.empty), dim=1))
    upsampled, log_sigma = next(parts), next(parts) if options.uncertainty else None
    return upsampled, log_sigma, next(parts) if options.empty else None


def output_of(
    upsampled: Tensor,
    log_sigma: Tensor | None,
    logits: Tensor | None,
    mask: Tensor | None,
    output_hw: tuple[int, int],
    dtype: torch.dtype,  # of the weights, not of what autocast may have lowered
) -> HeadOutput:
    """Depth, and what else is told, of what the last layers say of the finest grid; the mask is (B, h, w, 1)."""
    log_m, weights = upsampled.tensor_split([1], dim=1)
    log_m = _convex(_filled(log_m, mask), weights)
    depth_m = sized(log_m.clamp(-LOG_DEPTH_LIMIT, LOG_DEPTH_LIMIT).exp_(), output_hw)[:, 0]
    uncertainty_m = empty = None
    if log_sigma is not None:
        sigma = log_sigma.clamp(*LOG_SIGMA_LIMITS).exp_()
        uncertainty_m = (depth_m.detach() * sized(sigma, output_hw)[:, 0]).to(dtype)
    if logits is not None:  # it ends where surfaces do: upsampled as they are
        logits = _convex(_filled(logits, mask), weights)
        empty = sized(logits, output_hw)[:, 0].sigmoid().to(dtype)
    return HeadOutput(depth_m.to(dtype), uncertainty_m=uncertainty_m, empty=empty)


class _Attention(nn.Module):
    """Pre-norm self-attention over the whole grid."""

    def __init__(self, channels: int, drop: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.merge = nn.Linear(channels, channels)
        self.drop = drop

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        change = self.merge(_attended(self.qkv(self.norm(x)), mask))
        return x + dropped(change, self.drop, self.training)


def _attended(qkv: Tensor, mask: Tensor | None) -> Tensor:
    """Queries, keys and values (B, h, w, 3C) to (B, h, w, C): attention over the patches that `mask` leaves."""
    batch, h, w, channels = qkv.shape
    query, key, value = qkv.view(batch, h * w, 3, -1, HEAD_CHANNELS).permute(2, 0, 3, 1, 4)
    seen = None
    if mask is not None:
        seen = mask.view(batch, 1, 1, h * w) > 0
        seen |= ~seen.any(dim=-1, keepdim=True)  # an image that is all padding would be NaN
    mixed = scaled_dot_product_attention(query, key, value, attn_mask=seen)
    return mixed.transpose(1, 2).reshape(batch, h, w, channels // 3)


def _filled(values: Tensor, mask: Tensor | None) -> Tensor:
    """(B, 1, h, w) with every value of padding that of a neighbour which is real: beside it, else above or below.

    The mask is (B, h, w, 1).
    """
    if mask is None:
        return values
    mask = mask.permute(0, 3, 1, 2)
    for dim in (3, 2):
        for forwards in (True, False):
            size = values.shape[dim] - 1
            own, other = (1, 0) if forwards else (0, 1)
            gap = (mask.narrow(dim, own, size) == 0) & (mask.narrow(dim, other, size) > 0)
            edge = values.narrow(dim, 0 if forwards else size, 1), mask.narrow(dim, 0 if forwards else size, 1)
            inner = torch.where(gap, values.narrow(dim, other, size), values.narrow(dim, own, size))
            known = torch.maximum(mask.narrow(dim, own, size), gap.to(mask))
            order = (0, 1) if forwards else (1, 0)
            values = torch.cat([(edge[0], inner)[i] for i in order], dim)
            mask = torch.cat([(edge[1], known)[i] for i in order], dim)
    return values


def _convex(values: Tensor, weights: Tensor) -> Tensor:
    """(B, 1, h, w) to (B, 1, 4h, 4w): every pixel a mean of the nine values around it, its weights by softmax (Teed
    and Deng, "RAFT", 2020, section 3.3)."""
    batch, _, h, w = values.shape
    neighbours = unfold(pad(values, (1, 1, 1, 1), mode="replicate"), 3).view(batch, NEIGHBOURS, h, w)
    shares = weights.reshape(batch, NEIGHBOURS, CONVEX**2, h, w).softmax(dim=1)
    # In place where no gradient needs the shares: fresh memory of that size costs more than the product.
    parts = torch.mul(shares, neighbours[:, :, None], out=None if torch.is_grad_enabled() else shares)
    return pixel_shuffle(parts.sum(dim=1), CONVEX)


if TYPE_CHECKING:
    _options: DecoderOptions = TapMixerOptions()
