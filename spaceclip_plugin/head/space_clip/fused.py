"""The SPACE-CLIP decoder rearranged for inference: the same function of the same weights in fewer operations.
Measured and left out, because they gained nothing: both gates in one convolution, FiLM folded into the projection."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, interpolate, pad, relu

from spaceclip_plugin.head.decoder import HeadOutput
from spaceclip_plugin.head.space_clip.decoder import (
    SpaceClipDecoder,
    _Residual,
    _resize,
    _SemanticStage,
    _structural_states,
    _StructuralStage,
    _to_depth,
    _Up,
)
from spaceclip_plugin.head.space_clip.folding import (
    convolution,
    exact,
    folded,
    linear,
    parameter,
    pointwise,
    transposed,
)
from spaceclip_plugin.head.space_clip.winograd import WinogradConvolution, worth_it
from spaceclip_plugin.towers import TowerFeatures

_FIRST, _INNER, _LAST = slice(0, 1), slice(1, -1), slice(-1, None)


class FusedSpaceClipDecoder(nn.Module):
    """The inference form of a `SpaceClipDecoder`, made from copies of its weights in eval mode; no auxiliary heads."""

    def __init__(self, decoder: SpaceClipDecoder) -> None:
        super().__init__()
        options = decoder.options
        self.semantic_taps, self.structural_taps = options.semantic_taps, options.structural_taps
        self.film = nn.ModuleList(
            nn.Sequential(
                linear(exact(first.weight), exact(first.bias)), nn.ReLU(), linear(exact(last.weight), exact(last.bias))
            )
            for first, _, last in (cast(nn.Sequential, film) for film in decoder.film)
        )
        self.semantic_projections, self.structural_projections = (
            nn.ModuleList(convolution(exact(layer.weight), exact(layer.bias)) for layer in projections)
            for projections in (decoder.semantic_projections, decoder.structural_projections)
        )
        self.structural_stages = nn.ModuleList(
            _FusedStructuralStage(cast(_StructuralStage, stage)) for stage in decoder.structural_stages
        )
        self.semantic_stages = nn.ModuleList(
            _FusedSemanticStage(cast(_SemanticStage, stage)) for stage in decoder.semantic_stages
        )
        inner, norm, _, out = decoder.depth
        self.depth = nn.Sequential(
            convolution(*folded(cast(nn.Conv2d, inner), cast(nn.BatchNorm2d, norm))),
            nn.ReLU(inplace=True),
            convolution(exact(out.weight), exact(out.bias)),
        )

    def forward(self, features: TowerFeatures, output_hw: tuple[int, int], *, auxiliary: bool) -> HeadOutput:
        """Decode patch maps (B, C, h, w) into depth (B, H, W) at `output_hw`; `auxiliary` changes nothing."""
        # A view where the tower's tokens lie as (B, N, C); else one copy instead of one before every layer.
        maps = {tap: x.contiguous(memory_format=torch.channels_last) for tap, x in features.hidden.items()}
        structural = _structural_states(maps, self.structural_taps, self.structural_projections, self.structural_stages)
        projected = []
        for k, tap in enumerate(self.semantic_taps):
            tokens = maps[tap]
            if self.film:
                gamma, beta = self.film[k](features.context)[:, :, None, None].chunk(2, dim=1)
                tokens = torch.addcmul(beta, gamma, tokens)
            projected.append(self.semantic_projections[k](tokens))
        state = projected[0]
        for i, stage in enumerate(self.semantic_stages):
            state = stage(state, projected[i], *structural[i : i + 1])
        return HeadOutput(_to_depth(self.depth(state), output_hw))


class _FusedUp(nn.Module):
    """Transposed convolution (2x2, stride 2), convolution (3x3) with its norm, then ReLU: one transposed convolution of
    4x4, with a bias of its own along every edge and corner, where taps of the 3x3 reach over the border."""

    def __init__(self, up: _Up) -> None:
        super().__init__()
        weight, shift = folded(up.conv, up.norm)
        first, first_bias = exact(up.transpose.weight), exact(up.transpose.bias)
        source, channels = first.shape[:2]
        self.conv: nn.Module | None = None
        if source >= 3 * channels:  # as many products, in kernels that run slower
            self.transpose = transposed(first, first_bias, padding=0)
            self.conv = _square(weight, shift)
            return
        merged = first.new_zeros(source, channels, 4, 4)
        for k in range(3):
            for m in range(3):
                merged[:, :, 2 - k : 4 - k, 2 - m : 4 - m] += torch.einsum("imab,om->ioab", first, weight[:, :, k, m])
        inside = first.new_tensor([[0, 1, 1], [1, 1, 1], [1, 1, 0]])  # taps on the image: first, inner, last line
        reach = torch.einsum("omkl,m->okl", weight, first_bias)
        bias = torch.einsum("ik,jl,okl->ijo", inside, inside, reach) + shift
        self.transpose = transposed(merged, bias[1, 1], padding=1)
        self.border = parameter((bias - bias[1, 1])[..., None, None])  # (3, 3, c, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.transpose(x)
        if self.conv is not None:
            return relu(cast(Tensor, self.conv(out)), inplace=True)
        for i, rows in enumerate((_FIRST, _INNER, _LAST)):
            for j, columns in enumerate((_FIRST, _INNER, _LAST)):
                if (i, j) != (1, 1):
                    out[:, :, rows, columns] += self.border[i, j]
        return out.relu_()


class _FusedStructuralStage(nn.Module):
    """The 3x3 over [up, resized skip s] as one over `up`, plus the skip's share on its own coarse grid: with resizing R
    conv3x3(R s) = Σ_k shift_k(R (W_k s)) over the nine taps k, and shift_k R is one matrix a side."""

    def __init__(self, stage: _StructuralStage) -> None:
        super().__init__()
        self.up = _FusedUp(stage.up)
        weight, bias = folded(stage.fuse, stage.fuse_norm)
        from_up, from_skip = weight.chunk(2, dim=1)
        self.fuse = _square(from_up, bias)
        self.taps = parameter(from_skip.permute(2, 3, 0, 1).flatten(0, 2)[:, :, None, None])  # (9c, c, 1, 1)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        up = self.up(x)
        out: Tensor = self.fuse(up)
        batch, channels, height, width = out.shape
        h, w = skip.shape[-2:]
        if h * (3 * channels * w + 3 * width * w + height * width) >= 3 * channels * height * width:
            # The skip is not coarse enough: by the number of products per channel and row of taps, directly.
            kernels = self.taps.reshape(3, 3, channels, channels).permute(2, 3, 0, 1)
            return out.add_(conv2d(_resize(skip, up), kernels, padding=1)).relu_()
        shares = pointwise(skip, self.taps).permute(0, 2, 3, 1).reshape(-1, w, 3, 3, channels)  # 3x3 taps
        shares = shares.transpose(1, 2).reshape(-1, 3 * w, channels)  # (B h 3, w 3, c)
        wide = (_shifted_resizing(w, width, out) @ shares).view(batch, 3 * h, width * channels)
        rows = out.permute(0, 2, 3, 1).reshape(batch, height, width * channels)
        rows = rows.baddbmm_(_shifted_resizing(h, height, out).expand(batch, -1, -1), wide).relu_()
        return rows.view(batch, height, width, channels).permute(0, 3, 1, 2)


class _FusedSemanticStage(nn.Module):
    def __init__(self, stage: _SemanticStage) -> None:
        super().__init__()
        self.up = _FusedUp(stage.up)
        gates = (gate for gate in (stage.semantic_gate, stage.structural_gate) if gate is not None)
        self.gates = nn.ModuleList(convolution(exact(gate.weight), exact(gate.bias)) for gate in gates)
        self.fuse = _square(*folded(stage.fuse, stage.fuse_norm))
        residual: _Residual = stage.residual
        self.conv1 = _square(*folded(residual.conv1, residual.norm1))
        self.conv2 = _square(*folded(residual.conv2, residual.norm2))

    def forward(self, x: Tensor, *skips: Tensor) -> Tensor:
        # Maps of full size are let go as soon as may be: the C library returns large memory, and taking it anew costs.
        fused = self.fuse(self._parts(self.up(x), skips)).relu_()
        out: Tensor = self.conv2(self.conv1(fused).relu_())
        return out.add_(fused).relu_()

    def _parts(self, up: Tensor, skips: tuple[Tensor, ...]) -> Tensor:
        # No zip(strict=True) here: the compiler of torch 2.6 fails on it.
        return torch.cat([up, *[_gated(skips[i], up, gate) for i, gate in enumerate(self.gates)]], dim=1)


def _square(weight: Tensor, bias: Tensor) -> nn.Module:
    """The layer of 3x3 kernels (out, in, 3, 3), done the way that is faster for so many."""
    return WinogradConvolution(weight, bias) if worth_it(weight) else convolution(weight, bias)


def _gated(skip: Tensor, up: Tensor, gate: nn.Module) -> Tensor:
    """s·(1 + σ(gate(up))), in the memory of the gate."""
    gated: Tensor = gate(up).sigmoid_()
    skip = _resize(skip, up)
    return torch.addcmul(skip, skip, gated, out=gated)


def _shifted_resizing(source: int, size: int, like: Tensor) -> Tensor:
    """(size, source·3): bilinear resizing of a line, shifted by each of a kernel's three taps, zeros beyond it."""
    dtype = torch.promote_types(like.dtype, torch.float32)
    identity = torch.eye(source, dtype=dtype, device=like.device)
    line = interpolate(identity[None], size=size, mode="linear")[0]  # (source, size)
    taps = pad(line, (1, 1)).unfold(1, size, 1)  # (source, 3, size)
    return taps.permute(2, 0, 1).reshape(size, -1).to(like.dtype)
