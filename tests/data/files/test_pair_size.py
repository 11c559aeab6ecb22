from __future__ import annotations

import pytest

from spaceclip_plugin.data.files.pair_size import same_view


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
    assert same_view(one, other)
    assert same_view(other, one)
    assert same_view(one[::-1], other[::-1])


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
    assert not same_view(one, other)
    assert not same_view(other, one)
