"""Whether depth maps were stretched, each to its own range, before they were saved: as pictures of depth are.

Then every map has its furthest pixel at the end of a range (255, 65535, or 1 in floating point), and others right
below it. Metres are lost, for no two maps were stretched alike; the same is true of relative and of inverse depth.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Maps = Sequence[npt.NDArray[Any]]

_OF_8_BITS = 255
INTEGER_TOPS = (255, 65535)
FLOAT_TOPS = (1, 255, 65535)
_DISTINCT = 16
"""Fewer different values than this prove nothing."""
_FEW, _CLIPPED, _NEAR_TOP, _MOST_MAPS = 0.01, 0.1, 0.6, 0.8
_MOST_LOOKED_AT = 65536


def float_looks_like(maps: Maps) -> str | None:
    """What maps in floating point look like, if not like metres, and what to do: the end of a sentence.

    Args:
        maps: (H, W) each, as their files hold them; some of a source.
    """
    top = stretched_to(maps, FLOAT_TOPS)
    if top is not None:
        return stretched(top)
    known = [values[np.isfinite(values) & (values > 0)] for values in maps]
    if all(not np.any(values % 1) and (values <= 255).all() for values in known) and _distinct(known) >= _DISTINCT:
        return (
            "all values are whole numbers up to 255: an 8-bit image in floating point. It has lost its metres; save "
            "the depth again as it was before it was an image"
        )
    return None


def stretched(top: int) -> str:
    """What maps stretched to `top` look like."""
    return (
        f"the furthest pixel of every map is {top}, as if its depth had been stretched to that range. It has lost its "
        f"metres (it may be relative or inverse depth): export the depth again, unscaled. If it is only cut off at "
        f"{top} of its unit, store 0 there"
    )


def stretched_to(maps: Maps, tops: Sequence[int]) -> int | None:
    """The end of the range that every map reaches, nearly all as the furthest pixel of a stretched map does.

    Args:
        maps: (H, W) each; what is not finite or not positive does not count.
        tops: which ends are meant.
    """
    known = [values[np.isfinite(values) & (values > 0)] for values in maps]
    ends = {float(values.max()) for values in known if values.size}
    top = next((top for top in tops if ends == {float(top)}), None)
    if top is None or any(values.size == 0 for values in known):
        return None
    reaching = sum(_reaches(values, top) for values in known)
    return top if reaching >= _MOST_MAPS * len(known) else None


def _reaches(known: npt.NDArray[Any], top: int) -> bool:
    """Few pixels at the top, and not as far above all others as a value that stands for unknown depth is.

    Ten metres, beyond which few cameras see, are 10000 in millimetres and 50000 in the finest unit in which they fit.
    Nothing but an 8-bit picture ends at 255, with few pixels there or many. One that ends at 1 may have lost some
    hundredths of its pixels there, as is done to leave out outliers.
    """
    inner = known[known < top]
    if _distinct([inner]) < _DISTINCT:
        return False
    few = known.size - inner.size <= max((_CLIPPED if top == 1 else _FEW) * known.size, 4)
    return top == _OF_8_BITS or (few and float(inner.max()) >= _NEAR_TOP * top)


def _distinct(known: Maps) -> int:
    """How many different values there are, of evenly spread ones where they are many."""
    thinned = [values[:: -(-values.size // _MOST_LOOKED_AT) or 1] for values in known]
    return len(np.unique(np.concatenate(thinned))) if thinned else 0
