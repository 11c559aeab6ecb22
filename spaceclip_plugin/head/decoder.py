"""What every head architecture provides: options that can be checked and scaled, and a decoder module."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor
from typing_extensions import Self

from spaceclip_plugin.towers import TowerFeatures


@dataclass(frozen=True, eq=False)
class HeadOutput:
    """What a decoder gives for one image call.

    Attributes:
        depth_m: (B, H, W) metres along the optical axis; 0 where the tower saw nothing of the image.
        auxiliary_m: coarser predictions for deep supervision, each (B, H, W) metres; empty unless asked for.
        uncertainty_m: (B, H, W) standard deviation in metres, or None where the architecture predicts none. No gradient
            of it reaches the depth.

    Example:
        >>> import torch
        >>> HeadOutput(torch.ones(1, 4, 6)).uncertainty_m is None
        True
    """

    depth_m: Tensor
    auxiliary_m: tuple[Tensor, ...] = ()
    uncertainty_m: Tensor | None = None


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

    @classmethod
    def for_blocks(cls, blocks: int) -> Self:
        """Defaults with the taps scaled to a tower of that many blocks."""


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
        >>> features = TowerFeatures({1: torch.zeros(2, 8, 3, 3)}, None, (24, 24))
        >>> decoder(features, (24, 24), auxiliary=False).depth_m.shape
        torch.Size([2, 24, 24])
    """

    def __call__(self, features: TowerFeatures, output_hw: tuple[int, int], *, auxiliary: bool) -> HeadOutput:
        """Decode patch maps into metric depth at `output_hw`; differentiable in the decoder's parameters."""


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
