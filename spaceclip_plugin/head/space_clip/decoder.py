"""The decoder published as SPACE-CLIP (arXiv 2601.17657, section 3), for any tower width, depth and channel list:
a stream from deep hidden states, modulated by the tower's global vector (FiLM), with skips of one from shallow ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, relu
from typing_extensions import Self

from spaceclip_plugin import _checks
from spaceclip_plugin.errors import ConfigError
from spaceclip_plugin.head.decoder import STANDARD, DecoderOptions, HeadOutput
from spaceclip_plugin.towers import TowerFeatures

MAX_STAGES = 6
PUBLISHED_BLOCKS = 12


@dataclass(frozen=True)
class SpaceClipOptions:
    """Settings of the SPACE-CLIP decoder; the defaults are the published ones for a 12-block tower."""

    semantic_taps: tuple[int, ...] = (12, 9, 6, 3)  # one per stage, deepest first
    structural_taps: tuple[int, ...] = (2, 1, 0)  # one per stage from the first; empty: no structural stream
    channels: tuple[int, ...] = (256, 128, 64, 32)  # of each stage, coarse to fine
    film_hidden: int | None = 256  # hidden width of the FiLM generators; None: no FiLM, the context is not read
    auxiliary: bool = True  # whether all stages but the last have a head for deep supervision in training
    dropout: float = 0.1  # probability inside the residual units, in training

    def __post_init__(self) -> None:
        channels = _checks.wholes("channels", self.channels, 2, 2048, length=(1, MAX_STAGES))
        stages = len(channels)
        semantic = _checks.wholes("semantic_taps", self.semantic_taps, 0, 512, length=(1, MAX_STAGES))
        structural = _checks.wholes("structural_taps", self.structural_taps, 0, 512, length=(0, MAX_STAGES))
        if len(semantic) != stages:
            raise ConfigError(
                f"semantic_taps needs one tap per stage: {stages} channels, {len(semantic)} taps; "
                "give channels and semantic_taps of one length"
            )
        if len(structural) > stages:
            raise ConfigError(f"structural_taps can have at most one tap per stage: {stages}, got {len(structural)}")
        if self.film_hidden is not None:
            _checks.whole("film_hidden", self.film_hidden, 1, 8192)
        _checks.truth("auxiliary", self.auxiliary)
        object.__setattr__(self, "dropout", _checks.real("dropout", self.dropout, 0.0, 0.9))
        for name, value in (("channels", channels), ("semantic_taps", semantic), ("structural_taps", structural)):
            object.__setattr__(self, name, value)  # lists, as JSON gives them, become tuples

    @property
    def taps(self) -> tuple[int, ...]:
        """Hidden states the decoder reads, ascending, without repeats."""
        return tuple(sorted({*self.semantic_taps, *self.structural_taps}))

    @property
    def uses_context(self) -> bool:
        """Whether the decoder reads the tower's global vector."""
        return self.film_hidden is not None

    @property
    def pixels_per_patch(self) -> int:
        """0: structure comes from early hidden states."""
        return 0

    @classmethod
    def for_blocks(cls, blocks: int, preset: str = STANDARD) -> Self:
        """The published taps at the same fractions of a tower of `blocks` blocks."""

        def scale(taps: tuple[int, ...]) -> tuple[int, ...]:
            return tuple((2 * tap * blocks + PUBLISHED_BLOCKS) // (2 * PUBLISHED_BLOCKS) for tap in taps)

        return cls(semantic_taps=scale(cls.semantic_taps), structural_taps=scale(cls.structural_taps))


class SpaceClipDecoder(nn.Module):
    """Patch maps → metric depth. A fresh one differs from the published code in the bias of its last layers alone."""

    def __init__(self, width: int, options: SpaceClipOptions, tap_widths: Mapping[int, int]) -> None:
        super().__init__()
        self.options = options
        channels = options.channels
        semantic_widths = [tap_widths[tap] for tap in options.semantic_taps]
        structural_widths = [tap_widths[tap] for tap in options.structural_taps]
        incoming = (channels[0], *channels[:-1])
        structural = channels[: len(options.structural_taps)]
        self.film = nn.ModuleList(
            nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, 2 * tokens))
            for tokens, hidden in zip(semantic_widths, [options.film_hidden] * len(channels), strict=True)
            if hidden is not None
        )
        self.semantic_projections = _projections(semantic_widths, channels)
        self.structural_projections = _projections(structural_widths, structural)
        self.structural_stages = nn.ModuleList(
            _StructuralStage(source, c)
            for source, c in zip((*structural_widths[:1], *structural), structural, strict=False)
        )
        self.semantic_stages = nn.ModuleList(
            _SemanticStage(source, c, structural=i < len(structural), dropout=options.dropout)
            for i, (source, c) in enumerate(zip(incoming, channels, strict=True))
        )
        last = channels[-1]
        self.depth = _depth_layers(last, max(last // 2, 1), kernel=3)
        supervised = channels[:-1] if options.auxiliary else ()
        self.auxiliary = nn.ModuleList(_depth_layers(c, max(c // 2, 16), kernel=1) for c in supervised)

    def forward(self, features: TowerFeatures, output_hw: tuple[int, int], *, auxiliary: bool) -> HeadOutput:
        """Decode patch maps (B, C, h, w) into depth at `output_hw`."""
        structural = _structural_states(
            features.hidden, self.options.structural_taps, self.structural_projections, self.structural_stages
        )
        projected = self._semantic_projections(features)
        state = projected[0]
        coarse: list[Tensor] = []
        for i, stage in enumerate(self.semantic_stages):
            state = stage(state, projected[i], structural[i] if i < len(structural) else None)
            if auxiliary and i < len(self.auxiliary):
                coarse.append(_to_depth(self.auxiliary[i](state), output_hw))
        return HeadOutput(_to_depth(self.depth(state), output_hw), tuple(coarse))

    def _semantic_projections(self, features: TowerFeatures) -> list[Tensor]:
        maps = []
        for k, tap in enumerate(self.options.semantic_taps):
            tokens = features.hidden[tap]
            if self.film:
                gamma, beta = self.film[k](features.context)[:, :, None, None].chunk(2, dim=1)
                tokens = gamma * tokens + beta  # no "1 +": the generator learns the identity itself
            maps.append(self.semantic_projections[k](tokens))
        return maps


def _projections(widths: Sequence[int], channels: Sequence[int]) -> nn.ModuleList:
    return nn.ModuleList(nn.Conv2d(width, c, 1) for width, c in zip(widths, channels, strict=True))


def _structural_states(
    hidden: Mapping[int, Tensor], taps: Sequence[int], projections: nn.ModuleList, stages: nn.ModuleList
) -> list[Tensor]:
    outputs: list[Tensor] = []
    if taps:
        state = hidden[taps[0]]
        for tap, projection, stage in zip(taps, projections, stages, strict=True):
            state = stage(state, projection(hidden[tap]))
            outputs.append(state)
    return outputs


class _Up(nn.Module):
    def __init__(self, source: int, channels: int) -> None:
        super().__init__()
        self.transpose = nn.ConvTranspose2d(source, channels, 2, stride=2)
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return relu(self.norm(self.conv(self.transpose(x))))


class _Residual(nn.Module):
    def __init__(self, channels: int, dropout: float) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.dropout(relu(self.norm1(self.conv1(x))))
        return relu(x + self.norm2(self.conv2(inner)))


class _StructuralStage(nn.Module):
    def __init__(self, source: int, channels: int) -> None:
        super().__init__()
        self.up = _Up(source, channels)
        self.fuse = nn.Conv2d(2 * channels, channels, 3, padding=1, bias=False)
        self.fuse_norm = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        up = self.up(x)
        return relu(self.fuse_norm(self.fuse(torch.cat([up, _resize(skip, up)], dim=1))))


class _SemanticStage(nn.Module):
    def __init__(self, source: int, channels: int, *, structural: bool, dropout: float) -> None:
        super().__init__()
        self.up = _Up(source, channels)
        self.semantic_gate = nn.Conv2d(channels, channels, 1)
        self.structural_gate = nn.Conv2d(channels, channels, 1) if structural else None
        self.fuse = nn.Conv2d((3 if structural else 2) * channels, channels, 3, padding=1, bias=False)
        self.fuse_norm = nn.BatchNorm2d(channels)
        self.residual = _Residual(channels, dropout)

    def forward(self, x: Tensor, semantic: Tensor, structural: Tensor | None) -> Tensor:
        up = self.up(x)
        parts = [up, _resize(semantic, up) * (1 + torch.sigmoid(self.semantic_gate(up)))]
        if self.structural_gate is not None and structural is not None:
            parts.append(_resize(structural, up) * (1 + torch.sigmoid(self.structural_gate(up))))
        out: Tensor = self.residual(relu(self.fuse_norm(self.fuse(torch.cat(parts, dim=1)))))
        return out


def _depth_layers(channels: int, inner: int, *, kernel: int) -> nn.Sequential:
    out = nn.Conv2d(inner, 1, kernel, padding=kernel // 2)
    # Depth ends in a ReLU: a fresh head starts at about one metre, where it has a gradient everywhere.
    # With the usual bias around zero some initialisations give zero depth for every image, for ever.
    nn.init.ones_(cast(Tensor, out.bias))
    return nn.Sequential(
        nn.Conv2d(channels, inner, 3, padding=1, bias=False), nn.BatchNorm2d(inner), nn.ReLU(inplace=True), out
    )


def _resize(x: Tensor, like: Tensor) -> Tensor:
    size = like.shape[-2:]
    return x if x.shape[-2:] == size else interpolate(x, size=size, mode="bilinear", align_corners=False)


def _to_depth(logits: Tensor, output_hw: tuple[int, int]) -> Tensor:
    depth = relu(logits)
    if depth.shape[-2:] != torch.Size(output_hw):
        depth = interpolate(depth, size=output_hw, mode="bilinear", align_corners=False)
    return depth[:, 0]


if TYPE_CHECKING:
    _options: DecoderOptions = SpaceClipOptions()
