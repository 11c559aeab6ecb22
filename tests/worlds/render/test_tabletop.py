from __future__ import annotations

import numpy as np
import pytest
import torch

from spaceclip_plugin.data.sample import DepthSource
from spaceclip_plugin.depth.camera import back_project
from spaceclip_plugin.errors import ConfigError
from spaceclip_worlds.render.scene import Primitive, Scene, Shape
from spaceclip_worlds.render.tabletop import FOVY_RAD, TabletopScenes, random_tabletop


def objects_of(scene: Scene) -> list[Primitive]:
    """What stands on the table."""
    top = scene.primitives[0]
    return [p for p in scene.primitives[1:] if p.centre_m[2] > top.centre_m[2] and max(p.half_extents_m) <= 0.04]


def lowest_m(primitive: Primitive) -> float:
    """Height of the lowest point."""
    down = np.abs(primitive.rotation[2]) * np.array(primitive.half_extents_m)
    if primitive.shape is Shape.BOX:
        reach = down.sum()
    elif primitive.shape is Shape.CYLINDER:
        reach = np.hypot(down[0], down[1]) + down[2]
    else:
        reach = np.linalg.norm(down)
    return float(primitive.centre_m[2] - reach)


def test_is_a_depth_source() -> None:
    source: DepthSource = TabletopScenes(3, image_hw=(24, 32))
    assert len(source) == 3
    samples = [source[index] for index in range(3)]
    assert len({sample.name for sample in samples}) == 3
    for sample in samples:
        assert sample.image.shape == (24, 32, 3)
        assert sample.image.dtype == np.uint8
        assert sample.depth_m.shape == (24, 32)
        assert sample.depth_m.dtype == np.float32
        assert sample.intrinsics is not None
        assert sample.intrinsics.fy_px == pytest.approx(12.0 / np.tan(0.5 * FOVY_RAD))


def test_a_scene_is_its_seed_and_index() -> None:
    few, many = TabletopScenes(4, image_hw=(48, 48), seed=3), TabletopScenes(1000, image_hw=(48, 48), seed=3)
    late = many[3]
    for index in (3, 0, 3):
        np.testing.assert_array_equal(few[index].image, many[index].image)
        np.testing.assert_array_equal(few[index].depth_m, many[index].depth_m)
    np.testing.assert_array_equal(late.image, few[3].image)


def test_seeds_and_indices_share_no_scene() -> None:
    # 2**32 reads as the words (0, 1): sloppy seeding would make its scene 0 that of seed 0, index 1.
    pictures = [
        TabletopScenes(3, image_hw=(16, 16), seed=seed)[index].image.tobytes()
        for seed in (0, 1, 2, 2**32)
        for index in range(3)
    ]
    assert len(set(pictures)) == len(pictures)


@pytest.mark.slow
def test_depth_is_positive_finite_and_bounded() -> None:
    source = TabletopScenes(300, image_hw=(28, 28), seed=11)
    depth = np.stack([source[index].depth_m for index in range(len(source))])
    assert np.isfinite(depth).all()
    assert 0.25 < depth.min() < 0.45
    assert 2.4 < depth.max() < 3.2
    assert 0.7 < np.median(depth) < 1.2


def test_objects_rest_on_the_table_apart_from_each_other() -> None:
    counts = []
    for seed in range(60):
        scene = random_tabletop(np.random.default_rng(seed))
        top = scene.primitives[0]
        objects = objects_of(scene)
        counts.append(len(objects))
        for one in objects:
            assert lowest_m(one) == pytest.approx(top.centre_m[2] + top.half_extents_m[2], abs=1e-9)
            assert all(0.03 <= 2.0 * half <= 0.08 for half in one.half_extents_m)
            assert np.all(np.abs(one.centre_m[:2]) < top.half_extents_m[:2])
            for other in objects:
                if other is not one:
                    apart = np.hypot(*np.subtract(one.centre_m[:2], other.centre_m[:2]))
                    assert apart > min(one.half_extents_m) + min(other.half_extents_m)
    assert min(counts) >= 1
    assert max(counts) >= 10


def test_points_of_the_sample_lie_above_the_floor_and_below_the_ceiling() -> None:
    sample = TabletopScenes(1, image_hw=(32, 32), seed=5)[0]
    assert sample.intrinsics is not None
    points = back_project(torch.from_numpy(sample.depth_m)[None], sample.intrinsics)
    seed = np.random.SeedSequence(5, spawn_key=(0,))
    scene = random_tabletop(np.random.default_rng(seed))
    world = points[0].double() @ torch.from_numpy(scene.camera.rotation).T + torch.tensor(scene.camera.position_m)
    low, high = torch.tensor(scene.room.low_m), torch.tensor(scene.room.high_m)
    assert (world > low - 1e-4).all()
    assert (world < high + 1e-4).all()


def test_pictures_are_neither_dark_nor_burnt() -> None:
    source = TabletopScenes(60, image_hw=(28, 28), seed=2)
    means = [source[index].image.mean() for index in range(len(source))]
    assert min(means) > 30.0
    assert max(means) < 235.0
    assert np.std(means) > 10.0


def test_scenes_end() -> None:
    source = TabletopScenes(2, image_hw=(8, 8))
    assert len([sample.name for sample in source]) == 2
    for index in (2, -1):
        with pytest.raises(IndexError, match=f"scene {index} of 2"):
            source[index]


@pytest.mark.parametrize(
    ("count", "image_hw", "seed"), [(0, (8, 8), 0), (1, (0, 8), 0), (1, (8, -1), 0), (1, (8, 8), -1)]
)
def test_impossible_settings_are_refused(count: int, image_hw: tuple[int, int], seed: int) -> None:
    with pytest.raises(ConfigError, match="tabletop scenes need count >= 1"):
        TabletopScenes(count, image_hw=image_hw, seed=seed)
