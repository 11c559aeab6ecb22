"""The head architectures by name. A new one is one file and one line here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from spaceclip_plugin.errors import ConfigError, nearest
from spaceclip_plugin.head.fields import shown
from spaceclip_plugin.head.space_clip import SpaceClipDecoder, SpaceClipOptions


@dataclass(frozen=True)
class Architecture:
    """Options class and decoder class of one architecture (see `decoder.py` for what they provide)."""

    options: type[Any]
    decoder: Callable[[int, Any, Mapping[int, int]], nn.Module]


ARCHITECTURES = {
    "space-clip": Architecture(SpaceClipOptions, SpaceClipDecoder),
}
DEFAULT_ARCHITECTURE = "space-clip"


def architecture(name: object) -> Architecture:
    """The architecture of that name.

    Raises:
        ConfigError: an unknown name, with the nearest known one.
    """
    if not isinstance(name, str) or name not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        hint = nearest(name, ARCHITECTURES) if isinstance(name, str) else ""
        raise ConfigError(f"unknown head architecture {shown(name)}{hint}; known are {known}")
    return ARCHITECTURES[name]
