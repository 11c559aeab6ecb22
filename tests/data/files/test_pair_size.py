from __future__ import annotations

import pytest

from spaceclip_plugin.data.files.pairs import sizes_agree


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ((480, 640), (480, 640)),
        ((968, 1296), (480, 640)),  # ScanNet
        ((1440, 1920), (192, 256)),  # ARKit
        ((3024, 4032), (192, 256)),
        ((720, 1280), (360, 640)),
        ((375, 1242), (188, 621)),  # rounded up
        ((375, 1242), (187, 621)),  # rounded down
        ((11, 17), (4, 6)),
    ],
)
def test_scaled_alike(one: tuple[int, int], other: tuple[int, int]) -> None:
    assert sizes_agree(one, other)
    assert sizes_agree(other, one)
    assert sizes_agree(one[::-1], other[::-1])


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ((480, 640), (640, 480)),
        ((480, 640), (478, 640)),  # a crop
        ((480, 640), (479, 640)),
        ((720, 1280), (480, 640)),
        ((375, 1242), (352, 1216)),
        ((480, 640), (424, 512)),  # Kinect v2
        ((6, 8), (5, 8)),
        ((4, 5), (4, 6)),
        ((4, 6), (6, 5)),
    ],
)
def test_other_views(one: tuple[int, int], other: tuple[int, int]) -> None:
    assert not sizes_agree(one, other)
    assert not sizes_agree(other, one)
