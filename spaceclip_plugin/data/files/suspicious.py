"""What looks wrong in depth maps, whatever their unit: bits rotated, bytes swapped, a range stretched or cut off.

They are looked for before a unit is, as some unit always makes the median of such maps plausible.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Maps = Sequence[npt.NDArray[Any]]

_TOP = 65535
_OF_8_BITS = 255
_DISTINCT = 16
"""Fewer different values than this prove nothing: a wall at 2048 mm is a power of two by chance."""
_DISTINCT_ALONE = 64
"""As many must one map among sound ones have."""
_SHIFTED_SHARE = 0.6
_SMOOTHER = 0.2
_OVER_HALF = 0.5
_FEW, _CLIPPED, _NEARLY_ALL = 0.01, 0.1, 0.8
_NEAR_TOP = 0.6  # ten metres, beyond which few cameras see, are at most 50000 in a unit in which they fit
_MAX_LOOKED_AT = 65536


def looks_like(maps: Maps, *, units_per_metre: float) -> str | None:
    """What uint16 maps of a source, as stored, look like, if not like depth, and how to mend it, to end a sentence."""
    if (damage := _damage(maps, units_per_metre)) is not None:
        return damage
    alone = [_damage([values], units_per_metre, at_least=_DISTINCT_ALONE) for values in maps]
    damages = [found for found in alone if found is not None]
    if len(damages) > 1:  # one is chance
        return f"in at least {len(damages)} of them, unlike in others, {damages[0]}"
    counts = _counts(maps)
    nonzero, saturated = int(counts[1:].sum()), int(counts[_TOP])
    if (said := _stretched(maps, (_OF_8_BITS, _TOP))) is not None or saturated <= _OVER_HALF * nonzero:
        return said
    return (
        f"{100 * saturated / nonzero:.0f} % of its values that are not 0 are {_TOP}, the saturated value, which says "
        "no distance: depth was cut off when it was written, in too fine a unit. Export it again in a coarser one; if "
        "these pixels are of no known depth and the others right, store 0 there"
    )


def float_looks_like(maps: Maps) -> str | None:
    """What maps in floating point, as stored, look like, if not like metres, and what to do, to end a sentence."""
    if (said := _stretched(maps, (1, _OF_8_BITS, _TOP))) is not None:
        return said
    known = _known(maps)
    whole = all(not np.any(values % 1) and (values <= _OF_8_BITS).all() for values in known)
    if whole and _distinct(known) >= _DISTINCT:
        return (
            "all values are whole numbers up to 255: an 8-bit image in floating point. It has lost its metres; save "
            "the depth again as it was before it was an image"
        )
    return None


def too_flat(maps: Maps) -> bool:
    """Whether the maps hold too few different values for their bits and bytes to tell anything."""
    return len(np.flatnonzero(_counts(maps))) < _DISTINCT


def _damage(maps: Maps, units_per_metre: float, *, at_least: int = _DISTINCT) -> str | None:
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
    known = [(values > 0) & (values < _TOP) for values in maps]
    stored = sum(_roughness(values, mask) for values, mask in zip(maps, known, strict=True))
    swapped = sum(_roughness(values.byteswap(), mask) for values, mask in zip(maps, known, strict=True))
    if swapped < _SMOOTHER * stored:
        return (
            "its bytes are swapped: neighbouring pixels differ wildly, and hardly at all once the two bytes of "
            "every value change places. Convert it with values.byteswap(), or write it big-endian, as PNG is"
        )
    return _shifted(counts, units_per_metre)


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


def _roughness(values: npt.NDArray[Any], known: npt.NDArray[np.bool_]) -> int:
    """The sum of the differences between neighbours that are both known."""
    across = np.abs(np.diff(values.astype(np.int32), axis=1))[known[:, 1:] & known[:, :-1]]
    down = np.abs(np.diff(values.astype(np.int32), axis=0))[known[1:] & known[:-1]]
    return int(across.sum(dtype=np.int64) + down.sum(dtype=np.int64))


def _counts(maps: Maps) -> npt.NDArray[np.int64]:
    """How often each of the 65536 values occurs."""
    counts = np.zeros(_TOP + 1, np.int64)
    for values in maps:
        counts += np.bincount(values.ravel(), minlength=_TOP + 1)
    return counts


def _stretched(maps: Maps, tops: Sequence[int]) -> str | None:
    """What maps look like that all reach the end of a range, nearly all as the furthest pixel of a stretched one.

    Pictures of depth, each stretched to its own range, do; so do relative and inverse depth.
    """
    known = _known(maps)
    ends = {float(values.max()) for values in known if values.size}
    top = next((top for top in tops if ends == {float(top)}), None)
    if top is None or any(values.size == 0 for values in known):
        return None
    if sum(_reaches(values, top) for values in known) < _NEARLY_ALL * len(known):
        return None
    return (
        f"the furthest pixel of every map is {top}, as if its depth had been stretched to that range. It has lost its "
        f"metres (it may be relative or inverse depth): export the depth again, unscaled. If it is only cut off at "
        f"{top} of its unit, store 0 there"
    )


def _reaches(known: npt.NDArray[Any], top: int) -> bool:
    """Few pixels at the top, and not as far above all others as a value that stands for unknown depth is.

    Only 8-bit pictures end at 255; one that ends at 1 may have lost some hundredths of its pixels there, as outliers.
    """
    inner = known[known < top]
    if _distinct([inner]) < _DISTINCT:
        return False
    few = known.size - inner.size <= max((_CLIPPED if top == 1 else _FEW) * known.size, 4)
    return top == _OF_8_BITS or (few and float(inner.max()) >= _NEAR_TOP * top)


def _known(maps: Maps) -> list[npt.NDArray[Any]]:
    return [values[np.isfinite(values) & (values > 0)] for values in maps]


def _distinct(known: Maps) -> int:
    """How many different values there are, of evenly spread ones where they are many."""
    thinned = [values[:: -(-values.size // _MAX_LOOKED_AT) or 1] for values in known]
    return len(np.unique(np.concatenate(thinned))) if thinned else 0
