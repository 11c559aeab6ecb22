"""A rendered clip: what its poses, depth and mask say of each other."""

from __future__ import annotations

import doctest
import itertools

import numpy as np
import pytest
from reprojection import against_before

from spaceclip_plugin.errors import ConfigError
from spaceclip_worlds.clip import FRAME_S, ClipFrame
from spaceclip_worlds.render import tabletop_clip
from spaceclip_worlds.render.tabletop_clip import TabletopClip


@pytest.fixture(scope="module")
def frames() -> tuple[ClipFrame, ...]:
    return TabletopClip(6, seed=1, height_px=96, width_px=112).frames()


def test_frames_are_what_a_clip_is_made_of(frames: tuple[ClipFrame, ...]) -> None:
    assert [frame.time_s for frame in frames] == [number * FRAME_S for number in range(6)]
    for frame in frames:
        assert (frame.image.shape, frame.image.dtype) == ((96, 112, 3), np.uint8)
        assert (frame.depth_m.shape, frame.depth_m.dtype) == ((96, 112), np.float32)
        assert (frame.moved.shape, frame.moved.dtype) == ((96, 112), bool)
        assert (frame.camera_to_world.shape, frame.camera_to_world.dtype) == ((4, 4), np.float64)
        assert frame.intrinsics.image_hw == (96, 112)


def test_what_has_not_moved_was_where_it_is(frames: tuple[ClipFrame, ...]) -> None:
    for before, after in itertools.pairwise(frames):
        ratio = against_before(before, after, ~after.moved)
        assert np.median(np.abs(ratio - 1.0)) < 1e-4
        seen = ratio[ratio > 0.99]  # the others were hidden
        assert len(seen) > 0.99 * len(ratio)
        assert np.mean(seen < 1.01) > 0.995  # nothing was seen through


def test_what_has_moved_was_elsewhere(frames: tuple[ClipFrame, ...]) -> None:
    before, after = frames[-2:]
    assert 20 < after.moved.sum() < 0.05 * after.moved.size
    assert np.mean(np.abs(against_before(before, after, after.moved) - 1.0) > 1e-3) > 0.9


def test_one_object_goes_up_and_comes_down_again() -> None:
    clip = TabletopClip(1, seed=4)
    rng = np.random.default_rng(clip.seed)
    scene = tabletop_clip._scene(rng)
    [index, *_] = tabletop_clip._objects(scene)
    heights = [tabletop_clip._lifted(scene.primitives[index], number).centre_m[2] for number in range(41)]
    assert max(heights) - heights[0] == pytest.approx(0.1)
    assert min(heights) == heights[0]
    assert heights[40] == pytest.approx(heights[0])
    assert np.abs(np.diff(heights)).max() < 0.01


def test_a_clip_is_its_seed() -> None:
    def bits(seed: int, length: int) -> list[bytes]:
        found = TabletopClip(length, seed=seed, height_px=32, width_px=32).frames()
        return [one.image.tobytes() + one.depth_m.tobytes() + one.camera_to_world.tobytes() for one in found]

    assert bits(2, 3) == bits(2, 4)[:3]
    assert not set(bits(2, 3)) & set(bits(3, 3))


@pytest.mark.slow
def test_any_seed_makes_a_clip() -> None:
    for seed in range(40):
        frames = TabletopClip(2, seed=seed, height_px=16, width_px=16).frames()
        assert all(np.isfinite(frame.depth_m).all() and frame.depth_m.min() > 0.15 for frame in frames)


@pytest.mark.parametrize(
    ("field", "value"),
    [("length", 0), ("length", 1001), ("seed", -1), ("height_px", 7), ("width_px", 4096), ("seed", 0.5)],
)
def test_impossible_clips_are_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f"{field} of a tabletop clip"):
        TabletopClip(**{field: value})  # type: ignore[arg-type]


def test_its_example_runs() -> None:
    assert doctest.testmod(tabletop_clip).failed == 0
