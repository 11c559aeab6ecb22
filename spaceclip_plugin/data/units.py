"""Whether depth was read in its right unit: a mistake of a factor trains without any error, on wrong metres."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from spaceclip_plugin.data.files.depth_values import COMMON_UNITS_PER_METRE, StoredDepth
from spaceclip_plugin.data.files.suspicious import float_looks_like, looks_like, too_flat
from spaceclip_plugin.data.sample import DepthSource
from spaceclip_plugin.data.sources.mixture import Mixture
from spaceclip_plugin.errors import ConfigError, DataError

_log = logging.getLogger(__name__)
_MAX_PIXELS = 65536
_MAX_STORED = 1 << 25
_GOOD_PART, _ANOTHER = 0.2, 3.0
_METRES_PER: dict[float, str] = {1000: "millimetres", 100: "centimetres", 1e6: "micrometres", 0.001: "kilometres"}
"""What floating-point depth that should be metres is found in, by how many of them a metre has."""
_SET_UNITS = "give it as units_per_metre of the source in a config, or as --units-per-metre"


class PlausibleRange(Protocol):
    """What is used of an evaluation protocol."""

    @property
    def name(self) -> str:
        """For messages."""

    @property
    def median_range_m(self) -> tuple[float, float]:
        """Metres between which the median depth of a data set of this kind lies."""


@runtime_checkable
class KeepsStored(Protocol):
    """A source of files: it knows what they hold, before that is given a meaning."""

    def stored_depth(self, index: int) -> StoredDepth:
        """The depth of sample `index` as its file holds it."""

    def units_of(self, index: int) -> float | None:
        """The unit that it is read with; None where the file holds metres."""


def check_depth_units(source: DepthSource, protocol: PlausibleRange, *, samples: int = 24) -> float:
    """Check what a few samples hold, and their median depth against the protocol's range.

    Every part of a mixture is checked alone, and so are integer depth maps and those in metres where a source has both.

    Args:
        source: not empty.
        protocol: says which medians are plausible.
        samples: how many are read at most, evenly spread over the source (over each part that is checked alone).

    Returns:
        Metres, the median over the known pixels of all samples read.

    Raises:
        ConfigError: `samples` is below 1.
        DataError: the files hold no depth; says what they look like and how to convert it. Or the median is out of
            range; lists the common units in which it would be in range, with the median of each. Or a sample cannot be
            read, or there is none.

    Example:
        >>> import numpy as np
        >>> from spaceclip_plugin.data import DepthSample, check_depth_units
        >>> from spaceclip_plugin.evaluation import get_protocol
        >>> wall = DepthSample(np.zeros((4, 6, 3), np.uint8), np.full((4, 6), 1.5, np.float32), "a wall")
        >>> check_depth_units([wall, wall], get_protocol("nyu-eigen"))
        1.5
    """
    if samples < 1:
        raise ConfigError(f"the check of depth units needs at least 1 sample, got {samples}")
    return float(np.median(np.concatenate(list(_checked(source, protocol, samples)))))


def _checked(source: DepthSource, protocol: PlausibleRange, samples: int) -> Iterator[npt.NDArray[np.float32]]:
    """The known depth of the samples of each part, once its median has been found plausible."""
    if isinstance(source, Mixture):
        for part in source.parts:
            yield from _checked(part, protocol, samples)
        return
    if len(source) == 0:
        raise DataError("no depth to check: the source is empty")
    indices: dict[float | None, list[int]] = {}
    for index in range(len(source)):
        units = source.units_of(index) if isinstance(source, KeepsStored) else getattr(source, "units_per_metre", None)
        indices.setdefault(units, []).append(index)
    for units, members in indices.items():
        yield _plausible(source, protocol, _spread(members, samples), units)


def _plausible(
    source: DepthSource, protocol: PlausibleRange, indices: Sequence[int], units: float | None
) -> npt.NDArray[np.float32]:
    flat = False
    if isinstance(source, KeepsStored):
        first = source.stored_depth(indices[0]).values
        few = _spread(indices, max(1, _MAX_STORED // max(1, first.size)))[1:]  # fewer where they are large
        maps = [first, *(source.stored_depth(index).values for index in few)]
        damage = float_looks_like(maps) if units is None else looks_like(maps, units_per_metre=units)
        flat = units is not None and too_flat(maps)
        if damage is not None:
            place = getattr(source, "place", type(source).__name__)
            raise DataError(f"{place}: {len(maps)} depth maps were looked at, and this is no depth: {damage}")
    read = [source[index] for index in indices]
    known = [sample.depth_m[(sample.depth_m > 0) & (sample.depth_m < np.inf)] for sample in read]
    # Thinned evenly, so that a few huge maps need no memory and outweigh no others.
    depth_m = np.concatenate([values[:: -(-len(values) // _MAX_PIXELS) or 1] for values in known])
    if len(depth_m) == 0:
        raise DataError(f"{read[0].name}: none of {len(read)} samples has a pixel of known depth")
    median_m = float(np.median(depth_m))
    low_m, high_m = plausible = protocol.median_range_m
    if not low_m <= median_m <= high_m:
        advice = _metres(depth_m, plausible) if units is None else _other_units(median_m, units, plausible)
        advice += _other_bits(median_m, float(units or 1), plausible) if flat else ""
        raise DataError(
            f"the median depth of {len(read)} samples from {read[0].name!r} on is {median_m:.4g} m, expected {low_m:g} "
            f"to {high_m:g} m (protocol {protocol.name!r}); {advice}"
        )
    named = {sample.name: values for sample, values in zip(read, known, strict=True) if values.size}
    _warn_of_two_units({name: float(np.median(values)) for name, values in named.items()}, protocol)
    how = "in metres" if units is None else f"with {units:g} units per metre"
    _log.info("median depth of %d samples from %r on: %.3g m, read %s", len(read), read[0].name, median_m, how)
    return depth_m


def _warn_of_two_units(medians_m: dict[str, float], protocol: PlausibleRange) -> None:
    """Say so where the median of the whole is plausible, but a good part of the samples is of quite another depth."""
    low_m, high_m = protocol.median_range_m
    outside = {name: median_m for name, median_m in medians_m.items() if not low_m <= median_m <= high_m}
    inside = [median_m for name, median_m in medians_m.items() if name not in outside]
    if not inside or len(outside) < max(2, _GOOD_PART * len(medians_m)):
        return
    usual_m, other_m = float(np.median(inside)), float(np.median(list(outside.values())))
    if max(usual_m / other_m, other_m / usual_m) >= _ANOTHER:
        _log.warning(
            "%d of %d samples have a median depth of about %.3g m, outside %g to %g m (protocol %r): %s, …; the others "
            "of about %.3g m. If their files are in another unit, make them a source of their own, with its own unit",
            len(outside), len(medians_m), other_m, low_m, high_m, protocol.name, next(iter(outside)), usual_m,
        )  # fmt: skip


def _spread(indices: Sequence[int], count: int) -> list[int]:
    """At most `count` of the indices, evenly spread, the first among them."""
    places = np.linspace(0, len(indices) - 1, min(count, len(indices))).round().astype(int)
    return [indices[place] for place in places]


def _other_units(median_m: float, used: float, range_m: tuple[float, float]) -> str:
    """What integers may mean: every common unit that gives a plausible median."""
    found = [
        f"{median_m * used / units:.3g} m with {units:g} ({where})"
        for units, where in COMMON_UNITS_PER_METRE.items()
        if range_m[0] <= median_m * used / units <= range_m[1]
    ]
    read = f"it was read with {used:g} units per metre"
    if not found:
        return f"{read}, and no common unit fits; is it depth, and of such scenes?"
    return (
        f"{read}. It would be {', or '.join(found)}. Which unit is theirs only the makers of the data say: "
        f"{_SET_UNITS}. If the scenes really are of such depth, choose a --depth-range for them"
    )


def _other_bits(median_m: float, used: float, range_m: tuple[float, float]) -> str:
    """What integers may mean whose maps are too flat to tell damage by: their median once it were undone."""
    value = round(median_m * used)
    others = {
        "its bytes swapped": value >> 8 | (value & 255) << 8,
        "its bits rotated back by 3": value >> 3 | (value & 7) << 13,
    }
    found = [
        f"{other / used:.3g} m with {how}" for how, other in others.items() if range_m[0] <= other / used <= range_m[1]
    ]
    few = ". The maps hold too few different values to tell damage by"
    return f"{few}: it would also be {' or '.join(found)}" if found else few


def _metres(depth_m: npt.NDArray[np.float32], range_m: tuple[float, float]) -> str:
    """What numbers that are read as metres may be instead."""
    median_m = float(np.median(depth_m))
    found = [
        f"{name} (the median would be {median_m / units:.3g} m: divide by {units:g})"
        for units, name in _METRES_PER.items()
        if range_m[0] <= median_m / units <= range_m[1]
    ]
    read = "the source gives metres: .npy, .npz, float TIFF and LeRobot's depth are read as metres, whatever the unit"
    if found:
        return (
            f"{read}. These look like {' or '.join(found)}. Save the files again in metres, or as uint16 in 16-bit "
            "PNG, whose unit can be given. If the scenes really are of such depth, choose a --depth-range for them"
        )
    bounded = "; none exceeds 1, as in relative or inverse depth" if float(depth_m.max()) <= 1 else ""
    return f"{read}, and no common unit fits{bounded}: convert its depth, or choose a protocol for such depths"
