from __future__ import annotations

import math

import numpy as np
import pytest

from spaceclip_plugin.errors import ConfigError
from spaceclip_worlds.arm.observation import red_pixels
from spaceclip_worlds.arm.scene import BLOCK_HALF_M, FOVY_RAD, random_scene
from spaceclip_worlds.arm.world import ArmWorld


@pytest.mark.usefixtures("drawing")
@pytest.mark.parametrize(("seed", "camera"), [(0, "table0"), (1, "table0"), (2, "wrist")])
def test_true_depth_puts_the_table_at_height_0(seed: int, camera: str) -> None:
    with ArmWorld(seed) as world:
        x, y, z = world.block_m
        world.pose_at((x, y, z + 0.2))
        seen = world.observe(camera)
    assert seen.image.shape == (112, 112, 3)
    assert seen.intrinsics.fy_px == pytest.approx(56.0 / math.tan(0.5 * FOVY_RAD))
    depth = seen.depth_map()
    normal = np.array(seen.table.normal)
    off_m = depth.points(seen.intrinsics)[0].double().numpy() @ normal - seen.table.distance_m
    height_m = seen.world_points(depth)[..., 2]
    np.testing.assert_allclose(off_m, height_m, atol=1e-6)
    table = np.abs(height_m) < 0.005
    assert table.mean() > 0.3
    assert np.percentile(np.abs(height_m[table]), 99) < 1e-3
    assert height_m.min() > -0.51


@pytest.mark.usefixtures("drawing")
def test_red_pixels_are_those_of_the_block() -> None:
    with ArmWorld(3) as world:
        seen, block_m = world.observe(), world.block_m
    red = red_pixels(seen.image)
    points = seen.world_points(seen.depth_map())
    away_m = np.linalg.norm(points - np.array(block_m), axis=-1)
    assert red.sum() > 20
    # On its edge a pixel's colour is a mixture, while its depth is that of one place.
    assert (away_m[red] < math.sqrt(3.0) * BLOCK_HALF_M).mean() > 0.85
    assert (red & (away_m < 0.03)).sum() > 0.8 * (away_m < 0.03).sum()


@pytest.mark.usefixtures("moving")
def test_the_tool_moves_where_it_is_told() -> None:
    with ArmWorld(4) as world:
        x, y, z = world.block_m
        assert not world.move_to((x, y, z + 0.1))
        assert not world.move_to((x, y, z + 0.08))
        assert math.dist(world.tool_m, (x, y, z + 0.08)) < 0.004
        assert world.block_m == pytest.approx((x, y, z), abs=1e-4)


@pytest.mark.usefixtures("moving")
def test_the_gripper_feels_the_table_but_not_the_block() -> None:
    with ArmWorld(5) as world:
        x, y, z = world.block_m
        world.move_to((x, y, z + 0.1))
        assert not world.move_to((x, y, z - 0.005))
        assert not world.move_to((x, y, z - 0.005), opening_m=0.0)
        assert not world.touches
        assert world.move_to((x, y, z - 0.06))
    with ArmWorld(5) as world:
        assert world.move_to((0.25, -0.3, -0.02))
        assert world.touches


@pytest.mark.usefixtures("moving")
def test_a_seed_is_a_table() -> None:
    with ArmWorld(6) as one, ArmWorld(6, cameras=3) as same, ArmWorld(7) as other:
        assert one.block_m == same.block_m
        assert one.scene.distractors == same.scene.distractors
        assert one.block_m != other.block_m
    with pytest.raises(ConfigError, match="seed of an arm's world"):
        ArmWorld(-1)


def test_nothing_stands_where_the_hand_goes_down() -> None:
    for seed in range(30):
        scene = random_scene(np.random.default_rng(seed))
        assert 0.01 <= scene.stand_m <= 0.15
        assert scene.block_m[2] == scene.stand_m + BLOCK_HALF_M
        assert len(scene.distractors) >= 3
        for solid in scene.distractors:
            assert math.dist(solid.centre_m[:2], scene.block_xy_m) > 0.16
            assert solid.centre_m[2] == solid.half_extents_m[2]
        camera = scene.cameras[0]
        assert camera.depth_of((0.4, 0.0, 0.05)) == pytest.approx(
            math.dist(camera.position_m, (0.4, 0.0, 0.05)), rel=0.02
        )
