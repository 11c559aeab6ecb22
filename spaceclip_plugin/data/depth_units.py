"""Whether depth was read in its right unit: a mistake of a factor trains without any error, on wrong metres."""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np
import numpy.typing as npt

from spaceclip_plugin.data.mixture import Mixture
from spaceclip_plugin.data.sample import DepthSource
from spaceclip_plugin.errors import ConfigError, DataError

COMMON_UNITS_PER_METRE = (1, 100, 256, 1000, 5000, 10000)
"""Of metres, centimetres, KITTI, millimetres, TUM and tenths of a millimetre."""

_MOST_PIXELS = 65536


class PlausibleRange(Protocol):
    """What is used of an evaluation protocol."""

    @property
    def name(self) -> str:
        """For messages."""
        ...

    @property
    def median_range_m(self) -> tuple[float, float]:
        """Metres between which the median depth of a data set of this kind lies."""
        ...


def check_depth_units(source: DepthSource, protocol: PlausibleRange, *, samples: int = 24) -> float:
    """Check the median depth of a few samples against the protocol's range; of every part of a mixture alone.

    Args:
        source: not empty.
        protocol: says which medians are plausible.
        samples: how many are read at most, evenly spread over the source (over each part of a mixture).

    Returns:
        Metres, the median over the known pixels of all samples read.

    Raises:
        ConfigError: `samples` is below 1.
        DataError: the median is out of range; says in which common units it would be in range, the likeliest first. Or
            a sample cannot be read, or there is none.
    """
    if samples < 1:
        raise ConfigError(f"the check of depth units needs at least 1 sample, got {samples}")
    return float(np.median(_checked(source, protocol, samples)))


def _checked(source: DepthSource, protocol: PlausibleRange, samples: int) -> npt.NDArray[np.float32]:
    """The known depth of the samples, once its median has been found plausible."""
    if isinstance(source, Mixture):
        return np.concatenate([_checked(part, protocol, samples) for part in source.parts])
    if len(source) == 0:
        raise DataError("no depth to check: the source is empty")
    places = np.linspace(0, len(source) - 1, min(samples, len(source))).round().astype(int)
    read = [source[int(place)] for place in places]
    depth_m = np.concatenate([_thinned(sample.depth_m[sample.depth_m > 0]) for sample in read])
    if len(depth_m) == 0:
        raise DataError(f"{read[0].name}: none of {len(read)} samples has a pixel of known depth")
    median_m = float(np.median(depth_m))
    low_m, high_m = protocol.median_range_m
    if not low_m <= median_m <= high_m:
        raise DataError(
            f"the median depth of {len(read)} samples from {read[0].name!r} on is {median_m:.4g} m, expected {low_m:g} "
            f"to {high_m:g} m (protocol {protocol.name!r}); {_advice(source, median_m, (low_m, high_m))}"
        )
    return depth_m


def _thinned(depth_m: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Evenly spread values, so that a few huge maps need no memory and outweigh no others."""
    return depth_m[:: -(-len(depth_m) // _MOST_PIXELS) or 1]


def _advice(source: DepthSource, median_m: float, range_m: tuple[float, float]) -> str:
    used = getattr(source, "units_per_metre", None)
    if used is None:
        return "the source gives metres: convert its depth, or choose a protocol for such depths"
    middle_m = math.sqrt(range_m[0] * range_m[1])
    fitting = [units for units in COMMON_UNITS_PER_METRE if range_m[0] <= median_m * used / units <= range_m[1]]
    fitting.sort(key=lambda units: abs(math.log(median_m * used / units / middle_m)))
    if not fitting:
        return f"it was read with {used:g} units per metre, and no common unit fits; is it depth, and of such scenes?"
    return (
        f"it was read with {used:g} units per metre, but depth looks like {' or '.join(map(str, fitting))}; "
        f"set units_per_metre of the source to {fitting[0]} (`spaceclip train` reads it in a --config), or convert the "
        f"depth to {used:g} units per metre"
    )
