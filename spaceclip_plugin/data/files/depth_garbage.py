"""Whether the integers of depth maps are depth at all: bits rotated, bytes swapped, a range stretched or cut off.

Such maps have a median like any other, and some unit always makes it plausible. So they are looked for before a unit
is: what they are is told from the bits and from how neighbouring pixels differ, whatever the median says.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from spaceclip_plugin.data.files.depth_stretched import INTEGER_TOPS, stretched, stretched_to

Values = npt.NDArray[np.uint16]

_TOP = 65535
_DISTINCT = 16
"""Fewer different values than this prove nothing: a wall at 2048 mm is a power of two by chance."""
_DISTINCT_ALONE = 64
"""As many must one map among sound ones have."""
_SHIFTED_SHARE = 0.6
_SMOOTHER = 0.2
_MOSTLY = 0.5


def looks_like(maps: Sequence[Values], *, units_per_metre: float) -> str | None:
    """What depth maps of one source look like, if not like depth, and how to mend it: the end of a sentence.

    Args:
        maps: (H, W) uint16 each, as their files hold them; some of the source.
        units_per_metre: what they are read with: depth shifted by some bits is right in a unit shifted by as many.

    Returns:
        None where nothing speaks against depth.
    """
    damage = _damage(maps, units_per_metre)
    if damage is not None:
        return damage
    alone = [_damage([values], units_per_metre, at_least=_DISTINCT_ALONE) for values in maps]
    damages = [found for found in alone if found is not None]
    if len(damages) > 1:  # one is chance
        return f"in at least {len(damages)} of them, unlike in others, {damages[0]}"
    top = stretched_to(maps, INTEGER_TOPS)
    if top is not None:
        return stretched(top)
    counts = _counts(maps)
    nonzero, saturated = int(counts[1:].sum()), int(counts[_TOP])
    if saturated > _MOSTLY * nonzero:
        return (
            f"{100 * saturated / nonzero:.0f} % of its values that are not 0 are {_TOP}, the saturated value, which "
            "says no distance: depth was cut off when it was written, in too fine a unit. Export it again in a coarser "
            "one; if these pixels are of no known depth and the others right, store 0 there"
        )
    return None


def _damage(maps: Sequence[Values], units_per_metre: float, *, at_least: int = _DISTINCT) -> str | None:
    """What was done to the bits or bytes of maps that are looked at together, if they hold `at_least` many values."""
    counts = _counts(maps)
    distinct = np.flatnonzero(counts[1:_TOP]) + 1
    if len(distinct) < at_least:
        return None
    if not (distinct % 256).any():
        return (
            "all values are multiples of 256: an 8-bit image shifted by 8 bits, or 8-bit values with their bytes "
            "swapped. It has lost its metres; export the depth again as uint16, unscaled"
        )
    if _swapped(maps):
        return (
            "its bytes are swapped: neighbouring pixels differ wildly, and hardly at all once the two bytes of "
            "every value change places. Convert it with values.byteswap(), or write it big-endian, as PNG is"
        )
    return _shifted(counts, units_per_metre)


def _swapped(maps: Sequence[Values]) -> bool:
    """Whether neighbours differ far less once bytes are swapped."""
    stored = swapped = 0
    for values in maps:
        known = (values > 0) & (values < _TOP)
        stored += _roughness(values, known)
        swapped += _roughness(values.byteswap(), known)
    return swapped < _SMOOTHER * stored


def _roughness(values: Values, known: npt.NDArray[np.bool_]) -> int:
    """The sum of the differences between neighbours that are both known."""
    across = np.abs(np.diff(values.astype(np.int32), axis=1))[known[:, 1:] & known[:, :-1]]
    down = np.abs(np.diff(values.astype(np.int32), axis=0))[known[1:] & known[:-1]]
    return int(across.sum(dtype=np.int64) + down.sum(dtype=np.int64))


def too_flat(maps: Sequence[Values]) -> bool:
    """Whether the maps hold too few different values for their bits and bytes to tell anything."""
    return len(np.unique(np.concatenate([np.unique(values) for values in maps]))) < _DISTINCT


def _counts(maps: Sequence[Values]) -> npt.NDArray[np.int64]:
    """How often each of the 65536 values occurs."""
    counts = np.zeros(_TOP + 1, np.int64)
    for values in maps:
        counts += np.bincount(values.ravel(), minlength=_TOP + 1)
    return counts


def _shifted(counts: npt.NDArray[np.int64], units_per_metre: float) -> str | None:
    """Values shifted up by three bits or more, the highest bits come round to the lowest or not."""
    known = int(counts[1:_TOP].sum())
    aligned = counts[8:_TOP:8]
    if aligned.sum() < _SHIFTED_SHARE * known:
        return None
    multiples = 8 * (np.flatnonzero(aligned) + 1)
    step = int(np.gcd.reduce(multiples))
    if step & (step - 1) or len(multiples) < _DISTINCT:
        return None  # steps of centimetres are decimal
    wrapped = int(aligned.sum()) < known
    if not wrapped and units_per_metre == 1000 * step:
        return None  # shifted millimetres, read as such
    if step == 8:
        return (
            "its values are multiples of 8: the bits are rotated by three, as in SUN RGB-D, or shifted, as with a "
            "Kinect's player index. Convert every 16-bit value d to (d >> 3) | (d << 13), which is millimetres"
        )
    bits = step.bit_length() - 1
    return (
        f"its values are multiples of {step}: depth shifted up by {bits} bits. Convert every value d to "
        f"d >> {bits}, and give the unit of that"
    )
