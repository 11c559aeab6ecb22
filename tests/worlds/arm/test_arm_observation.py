from __future__ import annotations

import math

import numpy as np
import pytest

from spaceclip_plugin.depth.camera import Intrinsics
from spaceclip_worlds.arm.known_table import aligned_to_table, table_depth
from spaceclip_worlds.arm.observation import Observation, locate_block
from spaceclip_worlds.arm.two_cameras import BLOCK_HALF_M, SIDES, TwoCameraTable
from spaceclip_worlds.render.scene import Camera


def looking_down(image: np.ndarray, height_m: float = 1.0) -> Observation:
    """Straight down but for a hair, from above the origin, at a table that fills the picture."""
    camera = Camera.looking_at((0.0, -1e-4, height_m), (0.0, 0.0, 0.0), fovy_rad=math.radians(50.0))
    depth_m = np.full(image.shape[:2], height_m, np.float32)
    return Observation(image, depth_m, Intrinsics.from_fovy(math.radians(50.0), (112, 112)), camera)


def test_the_block_is_half_its_side_behind_what_is_seen() -> None:
    image = np.full((112, 112, 3), 120, np.uint8)
    image[54:58, 80:84] = (200, 20, 20)
    seen = looking_down(image)
    x, y, z = locate_block(seen, seen.depth_map(), half_m=0.02)
    focal_px = 56.0 / math.tan(math.radians(25.0))
    along = 1.0 + 0.95 * 0.02 / math.hypot(1.0, 26.0 / focal_px)
    assert x == pytest.approx(26.0 / focal_px * along, abs=1e-3)
    assert y == pytest.approx(0.0, abs=1e-3)
    assert z == pytest.approx(1.0 - along, abs=1e-3)


def test_a_few_red_pixels_are_no_block() -> None:
    image = np.full((112, 112, 3), 120, np.uint8)
    image[50, 50:54] = (200, 20, 20)
    seen = looking_down(image)
    assert locate_block(seen, seen.depth_map(), half_m=0.02) is None
    image[51, 50] = (200, 20, 20)
    assert locate_block(seen, seen.depth_map(), half_m=0.02) is not None
    image[51, 50] = (200, 120, 20)  # orange
    assert locate_block(seen, seen.depth_map(), half_m=0.02) is None


@pytest.mark.parametrize("factor", [0.85, 1.1])
def test_the_table_undoes_a_wrong_scale(factor: float) -> None:
    for seed in range(5):
        seen = TwoCameraTable(seed).observe("left")
        wrong = seen.depth_map(seen.depth_m * np.float32(factor))
        aligned = aligned_to_table(wrong, seen)
        np.testing.assert_allclose(aligned.depth_m[0].numpy(), seen.depth_m, rtol=1e-5)


def test_depth_without_the_table_in_it_is_left_alone() -> None:
    seen = TwoCameraTable(0).observe("left")
    noise = np.random.default_rng(0).uniform(0.2, 5.0, seen.depth_m.shape).astype(np.float32)
    depth = seen.depth_map(noise)
    assert aligned_to_table(depth, seen) is depth


def test_the_depth_of_an_empty_table() -> None:
    table = TwoCameraTable(1)
    for side in SIDES:
        seen = table.observe(side)
        empty = table_depth(seen)
        height_m = seen.world_points(seen.depth_map())[..., 2]
        bare = np.abs(height_m) < 1e-4
        assert bare.mean() > 0.3
        np.testing.assert_allclose(empty.depth_m[0].numpy()[bare], seen.depth_m[bare], rtol=1e-3)


def test_true_depth_finds_the_block_where_it_is_seen() -> None:
    errors_m = []
    for seed in range(20):
        table = TwoCameraTable(seed)
        for side in SIDES:
            seen = table.observe(side)
            place = locate_block(seen, seen.depth_map(), half_m=BLOCK_HALF_M)
            if place is not None:
                errors_m.append(math.dist(place, table.block_m))
    assert len(errors_m) >= 20
    assert np.median(errors_m) < 0.008
    assert max(errors_m) < 0.02
