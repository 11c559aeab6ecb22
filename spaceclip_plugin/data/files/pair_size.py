"""Whether a photo and a depth map of two sizes can be two pictures of one view."""

from __future__ import annotations

_ASPECTS_WITHIN = 0.005
_ROUNDED_PX = 0.5 + 1e-9


def same_view(one_hw: tuple[int, int], other_hw: tuple[int, int]) -> bool:
    """Whether one size is the other scaled alike in both sides.

    Aspect ratios agree to 0.5 % (those of ScanNet's photos, 968x1296, and depth, 480x640, to 0.42 %: a pixel at either
    edge), or but for the rounding of the smaller picture's sides to whole pixels. Where one side is the same and the
    other is not, one picture is a crop of the other.
    """
    if one_hw == other_hw:
        return True
    if one_hw[0] == other_hw[0] or one_hw[1] == other_hw[1]:
        return False
    small, large = sorted((one_hw, other_hw))
    if abs(small[0] * large[1] / (small[1] * large[0]) - 1) <= _ASPECTS_WITHIN:
        return True
    low = max((side - _ROUNDED_PX) / whole for side, whole in zip(small, large, strict=True))
    high = min((side + _ROUNDED_PX) / whole for side, whole in zip(small, large, strict=True))
    return small[1] < large[1] and low <= high
