"""What every head architecture provides: options that can be checked and scaled, and a decoder module."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from torch import Tensor
from typing_extensions import Self

from spaceclip_plugin.towers import TowerFeatures

STANDARD = "standard"
"""The preset that every architecture has: its defaults."""

_SINCE, _BEFORE = "since", "before"
_MORE_LIKELY_THAN_NOT = 0.5


@dataclass(frozen=True, eq=False)
class HeadOutput:
    """What a decoder gives for one image call.

    Attributes:
        depth_m: (B, H, W) metres along the optical axis; 0 where the tower saw nothing of the image.
        auxiliary_m: coarser predictions for deep supervision, each (B, H, W) metres; empty unless asked for.
        uncertainty_m: (B, H, W) standard deviation in metres, or None where the architecture predicts none. No gradient
            of it reaches the depth.
        empty: (B, H, W) probability that nothing is there at any range, such as sky, where `depth_m` is a number that
            means nothing; None where the head does not tell.

    Example:
        >>> import torch
        >>> output = HeadOutput(torch.ones(1, 1, 3), empty=torch.tensor([[[0.1, 0.2, 0.9]]]))
        >>> output.uncertainty_m is None, output.present_m.tolist()
        (True, [[[1.0, 1.0, 0.0]]])
    """

    depth_m: Tensor
    auxiliary_m: tuple[Tensor, ...] = ()
    uncertainty_m: Tensor | None = None
    empty: Tensor | None = None

    @property
    def present_m(self) -> Tensor:
        """`depth_m`, 0 where it is more likely than not that nothing is there."""
        return self.depth_m if self.empty is None else self.depth_m.masked_fill(self.empty > _MORE_LIKELY_THAN_NOT, 0)

    def changed(self, change: Callable[[Tensor], Tensor]) -> HeadOutput:
        """The output with every map of it changed alike."""
        others = (None if values is None else change(values) for values in (self.uncertainty_m, self.empty))
        return HeadOutput(change(self.depth_m), tuple(change(coarse_m) for coarse_m in self.auxiliary_m), *others)


def since(version: int, before: object) -> dict[str, object]:
    """Metadata of an option that came with a format of the head's config, and what it is in heads of older ones.

    A config is written in the lowest format that can hold it, without options that are what they were before.

    Example:
        >>> from dataclasses import dataclass, field
        >>> @dataclass(frozen=True)
        ... class Options:
        ...     taps: tuple[int, ...]
        ...     pixels: int = field(default=32, metadata=since(4, 0))
    """
    return {_SINCE: version, _BEFORE: before}


@dataclass(frozen=True)
class NewOption:
    """What `since` says of an option."""

    version: int
    before: object


def new_options(kind: type[Any]) -> dict[str, NewOption]:
    """The options of an architecture that older formats of the config lack, by name."""
    return {
        field.name: NewOption(field.metadata[_SINCE], field.metadata[_BEFORE])
        for field in dataclasses.fields(kind)
        if _SINCE in field.metadata
    }


class DecoderOptions(Protocol):
    """A frozen dataclass with the settings of one architecture; its constructor checks every field.

    Example:
        >>> from spaceclip_plugin.head import ARCHITECTURES
        >>> ARCHITECTURES["space-clip"].options.for_blocks(6).taps
        (0, 1, 2, 3, 5, 6)
    """

    @property
    def taps(self) -> tuple[int, ...]:
        """Hidden states the decoder reads, ascending, without repeats."""

    @property
    def uses_context(self) -> bool:
        """Whether the decoder reads the tower's global vector."""

    @property
    def pixels_per_patch(self) -> int:
        """At how many pixels along a patch of the middle tap the tower's images are read; 0: they are not."""

    @classmethod
    def for_blocks(cls, blocks: int, preset: str = STANDARD) -> Self:
        """A preset of the architecture's with the taps scaled to a tower of that many blocks."""


class Decoder(Protocol):
    """The module of one architecture, built as `Decoder(width, options, tap_widths)`.

    `width` is the context's, `tap_widths` says the channels of every tap. One that predicts uncertainty is
    `Calibratable`.

    Example:
        >>> import torch
        >>> from spaceclip_plugin.head import ARCHITECTURES
        >>> from spaceclip_plugin.towers import TowerFeatures
        >>> kind = ARCHITECTURES["tap-mixer"]
        >>> decoder = kind.decoder(8, kind.options(taps=(1,), channels=(4,), convolutions=(1,)), {1: 8})
        >>> features = TowerFeatures({1: torch.zeros(2, 8, 3, 3)}, None, (24, 24), pixels=torch.zeros(2, 3, 24, 24))
        >>> decoder(features, (24, 24), auxiliary=False).depth_m.shape
        torch.Size([2, 24, 24])
    """

    def __call__(self, features: TowerFeatures, output_hw: tuple[int, int], *, auxiliary: bool) -> HeadOutput:
        """Decode patch maps into metric depth at `output_hw`; differentiable in the decoder's parameters.

        Pixels, where it reads them, are of the part of the image that the patches cover, of any size.
        """


@runtime_checkable
class Calibratable(Protocol):
    """A decoder that may predict uncertainty, which the trainer calibrates.

    Example:
        >>> from spaceclip_plugin.head import ARCHITECTURES
        >>> kind = ARCHITECTURES["tap-mixer"]
        >>> decoder = kind.decoder(8, kind.options(taps=(1,), channels=(4,), convolutions=(1,)), {1: 8})
        >>> isinstance(decoder, Calibratable), decoder.predicts_uncertainty
        (True, True)
    """

    @property
    def predicts_uncertainty(self) -> bool:
        """Whether it does: an option may have switched it off."""

    def rescale_uncertainty(self, factor: float) -> None:
        """From now on predict `factor` times as much, as far as the decoder's limits allow."""


def predicts_uncertainty(decoder: object) -> bool:
    """Whether a decoder's outputs have `uncertainty_m`."""
    return isinstance(decoder, Calibratable) and decoder.predicts_uncertainty


def predicts_empty(decoder: object) -> bool:
    """Whether a decoder's outputs have `empty`."""
    return bool(getattr(decoder, "predicts_empty", False))


def shows_faults(decoder: object) -> bool:
    """Whether NaN or infinity in a tap makes NaN of all depth that is made of it, so that depth alone tells."""
    return bool(getattr(decoder, "shows_faults", False))
