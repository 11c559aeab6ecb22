"""How unlike the images of the training an image is, told from tokens that the tower computes anyway.

The distance is Mahalanobis': of the mean token of one hidden state from those of the training images, along their main
directions, with what is left counted alike (Lee et al., "A Simple Unified Framework for Detecting Out-of-Distribution
Samples", 2018, section 2.1). Early hidden states tell more than late ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from typing_extensions import Self

from spaceclip_plugin import _checks
from spaceclip_plugin.errors import ConfigError

LEAST_IMAGES = 40
"""Of fewer training images no one can say what is like them."""

_DIRECTIONS = 128
_REFERENCES = 1024
_FOLDS = 20
_SHRINKAGE = 0.1
_LEAST_VARIANCE = 1e-3


@dataclass(frozen=True)
class FamiliarityOptions:
    """Which hidden state tells, and the sizes of what is kept of it.

    Attributes:
        tap: one of the head's taps.
        directions: main directions of the training images' mean tokens.
        references: distances of training images from the others, ascending, that a new one is compared with.

    Example:
        >>> FamiliarityOptions(tap=3, directions=128, references=695).tap
        3
    """

    tap: int
    directions: int
    references: int

    def __post_init__(self) -> None:
        _checks.whole("tap of familiarity", self.tap, 0, 512)
        _checks.whole("directions of familiarity", self.directions, 1, 4096)
        _checks.whole("references of familiarity", self.references, 1, 1 << 16)

    def check(self, width_of: Mapping[int, int]) -> None:
        """Raise ConfigError where a head with taps of these widths cannot tell."""
        if self.tap not in width_of:
            raise ConfigError(f"familiarity is told by hidden state {self.tap}, the head reads {sorted(width_of)}")
        if self.directions >= width_of[self.tap]:
            raise ConfigError(
                f"familiarity has {self.directions} directions, hidden state {self.tap} has {width_of[self.tap]}"
            )


class Familiarity(nn.Module):
    """What a head knows the images it was trained on by; `DepthHead.familiarity` holds one, `learnt` makes it.

    Example:
        >>> torch.manual_seed(0)  # doctest: +ELLIPSIS
        <torch._C.Generator object at ...>
        >>> known = Familiarity.learnt(torch.randn(200, 1, 16), tap=3)
        >>> like_them, unlike = torch.randn(1, 16, 2, 2), torch.full((1, 16, 2, 2), 4.0)
        >>> bool(known(like_them) > 0.05), bool(known(unlike) < 0.05)
        (True, True)
    """

    mean: Tensor  # (C,), like the deviation: of every channel over the training images
    deviation: Tensor
    directions: Tensor  # (K, C), the main ones, and their variances (K,), in deviations
    variances: Tensor
    rest: Tensor  # (1,), mean variance along all others
    references: Tensor  # (R,) distances, ascending

    def __init__(self, options: FamiliarityOptions, width: int) -> None:
        super().__init__()
        self.options = options
        shapes = {"mean": (width,), "deviation": (width,), "directions": (options.directions, width)}
        shapes |= {"variances": (options.directions,), "rest": (1,), "references": (options.references,)}
        for name, shape in shapes.items():
            self.register_buffer(name, torch.ones(shape, dtype=torch.float32))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """As any module's, but for the dtype: rounded to half precision, images would differ by their rounding."""

        def moved(value: Tensor) -> Tensor:
            result = fn(value)
            return result if result.dtype == value.dtype else value.to(result.device)

        found: Self = super()._apply(moved, recurse)  # type: ignore[no-untyped-call]
        return found

    @classmethod
    @torch.no_grad()
    def learnt(cls, tokens: Tensor, *, tap: int) -> Familiarity:
        """From the mean tokens of training images.

        What is strange is judged by how far training images lie from those in other parts of the list, where
        neighbours are often of one scene: from their own kind everything is near.

        Args:
            tokens: (N, V, C) float, of N images in V versions each, the first as photographed; at least `LEAST_IMAGES`.
            tap: the hidden state that they are of.

        Raises:
            ConfigError: fewer images, tokens of another shape, or some that are not finite.
        """
        if tokens.ndim != 3 or 0 in tokens.shape[1:] or not bool(tokens.isfinite().all()):
            given = f"shape {tuple(tokens.shape)}" + ("" if bool(tokens.isfinite().all()) else " with NaN or infinity")
            raise ConfigError(f"familiarity is learnt from finite tokens (N, V, C), got {given}")
        count, _, width = tokens.shape
        if count < LEAST_IMAGES:
            raise ConfigError(f"familiarity is learnt from {LEAST_IMAGES} images or more, got {count}")
        tokens = tokens.double().cpu()
        centre = tokens.mean(dim=(0, 1))
        tokens = tokens - centre  # so that no digits are lost in the moments
        options = FamiliarityOptions(tap, min(_DIRECTIONS, width - 1, count // 4), min(_REFERENCES, count))
        fold = torch.arange(count) * _FOLDS // count
        moments = [_moments(tokens[fold == number].flatten(0, 1)) for number in range(_FOLDS)]
        whole = torch.stack(moments).sum(dim=0)
        distances = torch.empty(count, dtype=torch.float64)
        for number, part in enumerate(moments):
            others = cls(options, width)
            others._fit(whole - part)
            distances[fold == number] = others.distance(tokens[fold == number, 0])
        places = torch.linspace(0, 1, options.references, dtype=torch.float64)
        found = cls(options, width)
        found._fit(whole)
        found.mean = found.mean + centre
        found.references = torch.quantile(distances, places)
        for name, value in found.named_buffers():
            setattr(found, name, value.float())
        return found

    def _fit(self, moments: Tensor) -> None:
        """From the `_moments` of mean tokens."""
        kept, count = self.options.directions, int(moments[0, 0])
        self.mean = moments[0, 1:] / count
        covariance = moments[1:, 1:] / count - torch.outer(self.mean, self.mean)
        deviation = (covariance.diagonal().clamp_min(0) * (count / (count - 1))).sqrt()
        self.deviation = deviation.clamp_min(_LEAST_VARIANCE * float(deviation.mean())).clamp_min(1e-12)
        variances, directions = torch.linalg.eigh(covariance / torch.outer(self.deviation, self.deviation))
        variances = variances.flip(0).clamp_min(0)[:count]  # of fewer tokens than channels, the others are 0
        self.directions = directions.T.flip(0)[:kept].contiguous()
        self.variances = variances[:kept] * (1 - _SHRINKAGE) + _SHRINKAGE * variances.mean()
        self.variances = self.variances.clamp_min(_LEAST_VARIANCE)
        self.rest = (variances[kept:].sum() / (len(self.mean) - kept)).clamp_min(_LEAST_VARIANCE)[None]

    def distance(self, tokens: Tensor) -> Tensor:
        """(B,) of mean tokens (B, C) from those of the training images; 1 is about usual."""
        off = (tokens.to(self.mean) - self.mean) / self.deviation
        along = off @ self.directions.T
        left = (off.square().sum(dim=1) - along.square().sum(dim=1)).clamp_min(0) / self.rest
        return (((along.square() / self.variances).sum(dim=1) + left) / off.shape[1]).sqrt()

    @torch.no_grad()
    def forward(self, patch_map: Tensor, counted: Tensor | None = None) -> Tensor:
        """The share of images like those of the training that look stranger, of each image.

        Args:
            patch_map: (B, C, h, w) of the hidden state.
            counted: (B, h, w) or (h, w) bool, False where a patch is padding; None: all count.

        Returns:
            (B,) float32 in [0, 1]; 0 where no patch counts, or a token is not finite.
        """
        with torch.autocast(patch_map.device.type, enabled=False):
            return self._told(patch_map, counted)

    def _told(self, patch_map: Tensor, counted: Tensor | None) -> Tensor:
        tokens, some = mean_tokens(patch_map, counted)
        distance = self.distance(tokens).float().nan_to_num(math.inf)
        stranger = (self.references.float() < distance[:, None]).sum(dim=1)  # a search is no operator of ONNX
        share = 1 - stranger.float() / self.options.references
        return share if some is None else share * some


def _moments(tokens: Tensor) -> Tensor:
    """(1 + C, 1 + C) of tokens (N, C): N, their sums, and those of their products; moments of several parts add up."""
    with_one = torch.cat([torch.ones_like(tokens[:, :1]), tokens], dim=1)
    return with_one.T @ with_one


def mean_tokens(patch_map: Tensor, counted: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
    """Mean tokens (B, C) float32 of patch maps (B, C, h, w), and which images (B,) have a patch that counts; None: all.

    `counted` is as for `Familiarity.forward`.
    """
    maps = patch_map.float()
    if counted is None:
        return maps.mean(dim=(2, 3)), None
    shares = counted.to(maps).expand(len(maps), *maps.shape[2:])
    total = shares.sum(dim=(1, 2))
    return (maps * shares[:, None]).sum(dim=(2, 3)) / total.clamp_min(1)[:, None], total > 0
