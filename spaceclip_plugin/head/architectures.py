"""The head architectures by name. A new one is one file and one line here."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from spaceclip_plugin._checks import choice
from spaceclip_plugin.head.decoder import STANDARD
from spaceclip_plugin.head.fused_tap_mixer import fused_tap_mixer
from spaceclip_plugin.head.space_clip.decoder import SpaceClipDecoder, SpaceClipOptions
from spaceclip_plugin.head.space_clip.fused import FusedSpaceClipDecoder
from spaceclip_plugin.head.tap_mixer import PRESETS, TapMixerDecoder, TapMixerOptions


@dataclass(frozen=True)
class Architecture:
    """What makes heads of one kind; `decoder.py` says what its parts provide.

    Attributes:
        options: class of its settings, a `DecoderOptions`.
        decoder: makes its module, a `Decoder`, from the width of the context, options and the channels of every tap.
        fused: makes of a decoder a new module, called alike, that computes what it computes in eval mode from weights
            of its own, faster, without auxiliary outputs; None where there is none. `DepthHead.fuse` sees to dtype and
            device.
        presets: names that `options.for_blocks` takes; "standard" is one of them.

    Example:
        >>> ARCHITECTURES["tap-mixer"].options.for_blocks(24).taps
        (6, 12, 18, 24)
    """

    options: type[Any]
    decoder: Callable[[int, Any, Mapping[int, int]], nn.Module]
    fused: Callable[[Any], nn.Module] | None = None
    presets: Collection[str] = (STANDARD,)

    @property
    def option_names(self) -> list[str]:
        """Names of its settings."""
        return [field.name for field in dataclasses.fields(self.options)]


ARCHITECTURES = {
    "space-clip": Architecture(SpaceClipOptions, SpaceClipDecoder, FusedSpaceClipDecoder),
    # Little is to be folded: most of its time goes into matrix products that no algebra saves. Measured and left out,
    # because beside a host none of it gained on every CPU: linear layers as 1x1 convolutions or as oneDNN's with GELU
    # and sum inside, the taps as one product, statistics of the norms apart from their products.
    "tap-mixer": Architecture(TapMixerOptions, TapMixerDecoder, fused_tap_mixer, PRESETS),
}
DEFAULT_ARCHITECTURE = "tap-mixer"


def architecture(name: object) -> Architecture:
    """The architecture of that name; ConfigError for an unknown one."""
    return ARCHITECTURES[choice("architecture of a head", name, ARCHITECTURES)]


def name_for(options: object) -> str:
    """The name of the architecture that `options` belong to; the default one's for all else."""
    return next((name for name, one in ARCHITECTURES.items() if isinstance(options, one.options)), DEFAULT_ARCHITECTURE)


def owner_of(option: str) -> str | None:
    """The first architecture with an option of that name, if there is one."""
    return next((name for name, one in ARCHITECTURES.items() if option in one.option_names), None)
