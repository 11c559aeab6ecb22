"""Colour maps for depth and for its error, and how values become colours."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from spaceclip_plugin.errors import ConfigError

Colours = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.floating[Any]]
Mask = npt.NDArray[np.bool_]

# Both maps were laid out by hand in OKLCH, where equal steps look equal: lightness falls evenly, so that the order
# survives colour blindness and grey print. Depth turns from yellow (near) over red to indigo (far); error from white to
# dark teal, a hue that depth never has.
_DEPTH_CONTROLS = (
    "faf392 fde066 ffcb49 ffb33b ff992b ff7c23 f95f36 ed464c dd305e c71f74 a91e8d 89209b 6c229e 50239a 39248a 232378"
)
_ERROR_CONTROLS = "f4fcf9 bce9de 75d1c5 2eb4b0 018f95 006a76 014552 002631"
_INVALID = (48, 48, 48)


def _table(controls: str) -> Colours:
    """256 colours, (256, 3), linear between evenly spaced control colours."""
    stops = np.array([list(bytes.fromhex(colour)) for colour in controls.split()], dtype=np.float64)
    place = np.linspace(0, len(stops) - 1, 256)
    channels = [np.interp(place, np.arange(len(stops)), stops[:, channel]) for channel in range(3)]
    table: Colours = np.stack(channels, axis=-1).round().astype(np.uint8)
    return table


DEPTH_TABLE = _table(_DEPTH_CONTROLS)
ERROR_TABLE = _table(_ERROR_CONTROLS)


def colorize_depth(depth_m: Floats, valid: Mask, *, depth_range_m: tuple[float, float] | None = None) -> Colours:
    """(..., 3) uint8 colours of depth (...) in metres: near is warm and bright, far cool and dark, invalid grey."""
    if depth_m.shape != valid.shape:
        raise ConfigError(f"depth of shape {depth_m.shape} needs a mask of that shape, got {valid.shape}")
    return paint(DEPTH_TABLE, depth_m, valid, depth_range(depth_m, valid, depth_range_m))


def depth_range(depth_m: Floats, valid: Mask, given: tuple[float, float] | None) -> tuple[float, float]:
    """(near, far) in metres as given, or what shows the valid depth well, a few stray pixels aside."""
    if given is not None:
        near, far = given
        if not 0 <= near < far < math.inf:
            raise ConfigError(f"a depth range is (near, far) metres with 0 <= near < far, got {given}")
        return float(near), float(far)
    if not valid.any():
        return 0.0, 1.0
    near, far = (float(value) for value in np.percentile(depth_m[valid], (1, 99)))
    margin = max(0.0, 0.05 - (far - near)) / 2  # a wall facing the camera: do not blow its noise up to full colour
    return max(0.0, near - margin), far + margin


def paint(table: Colours, values: Floats, valid: Mask, limits: tuple[float, float]) -> Colours:
    """(..., 3) uint8: values from limits[0] to limits[1] through a table of 256 colours, grey where not valid."""
    low, high = limits
    share = (np.clip(np.where(valid, values, low), low, high) - low) / (high - low)
    picture: Colours = table[np.rint(share * 255).astype(np.intp)]
    picture[~valid] = _INVALID
    return picture
