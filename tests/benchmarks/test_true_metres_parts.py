"""What the table of other cameras is made of: longer lenses, AUROC, and what counts as a target met."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import true_metres as benchmark

from spaceclip_plugin.data import DepthSample
from spaceclip_plugin.depth import Intrinsics


def test_the_middle_of_a_photo_is_that_of_a_longer_lens() -> None:
    depth_m = np.arange(60, dtype=np.float32).reshape(6, 10)
    camera = Intrinsics(8.0, 9.0, 5.0, 3.0, (6, 10))
    image = np.repeat(depth_m[..., None], 3, axis=2).astype(np.uint8)
    half = benchmark.zoomed(DepthSample(image, depth_m, "ramp", camera), 0.5)
    assert half.depth_m.tolist() == depth_m[1:4, 2:7].tolist()
    assert half.image[..., 0].tolist() == half.depth_m.tolist()
    assert half.intrinsics == Intrinsics(8.0, 9.0, 3.0, 2.0, (3, 5))
    assert half.intrinsics.focal_length == (1.6, 3.0)


@pytest.mark.parametrize(
    ("home", "other", "expected"),
    [([1, 2], [3, 4], 1.0), ([3, 4], [1, 2], 0.0), ([0, 0], [0], 0.5), ([0, 1], [0, 2, 2], 0.75)],
)
def test_auroc_counts_ties_half(home: list[float], other: list[float], expected: float) -> None:
    assert benchmark.auroc(home, other) == pytest.approx(expected)


def figures(**changes: Any) -> dict[str, Any]:
    row = {"kind": "robot", "images": 2, "focal_over_width": 0.9, "before": None, "covered": 0.9, "auroc": 0.99}
    row |= {f"abs_rel_{way}": 0.2 for way in ("as_read", "in_camera", "one_scale")}
    return row | {"familiarity_median": 0.0, "unfamiliar": 1.0, "auroc_of_distance": 1.0} | changes


HOME = figures(kind="home", unfamiliar=0.05, auroc=None, auroc_of_distance=None)


@pytest.mark.parametrize(
    ("home", "arm", "road", "missed"),
    [
        ({}, {}, {}, []),
        ({}, {"auroc": 0.96}, {}, [0]),
        ({}, {}, {"auroc": 0.96}, [0]),
        ({"unfamiliar": 0.06}, {}, {}, [1]),
        ({"covered": 0.94}, {}, {}, [2]),
        ({"covered": 0.86}, {}, {}, [2]),
        ({}, {"covered": 0.79}, {}, [3]),
        ({}, {}, {"covered": 0.49}, [4]),
    ],
)
def test_a_target_is_met_or_is_not(
    home: dict[str, Any], arm: dict[str, Any], road: dict[str, Any], missed: list[int]
) -> None:
    rows = {benchmark.HOME: HOME | home, "arm": figures(**arm), "road": figures(**{"kind": "road"} | road)}
    rows["zoomed"] = figures(kind="zoomed", auroc=0.6)
    found = benchmark.targets(rows)
    assert [number for number, (*_, met) in enumerate(found) if not met] == missed
    assert benchmark.table({"sets": rows}).count("✗") == len(missed)
