"""Live tasks: a start is its seed's whatever came before, and what cannot be is said."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest

from spaceclip_plugin.errors import ConfigError
from spaceclip_worlds.metaworld import states
from spaceclip_worlds.metaworld.frame import Frame
from spaceclip_worlds.metaworld.live import LiveTask

HW = (48, 64)


@pytest.fixture(scope="module")
def reach(draw: Callable[..., object]) -> Iterator[LiveTask]:
    """One task for all tests: each starts it again."""
    with LiveTask("reach-v3", 1, image_hw=HW) as task:
        yield task


def goal_pixel(frame: Frame, goal_m: np.ndarray) -> tuple[int, int, float]:
    """Row, column and distance of a point of the world."""
    x, y, z = (np.linalg.inv(frame.camera_to_world) @ [*goal_m, 1.0])[:3]
    column, row = (frame.intrinsics.matrix().numpy() @ [x / z, y / z, 1.0])[:2].astype(int)
    return int(row), int(column), float(z)


class TestLiveTask:
    def test_starting_again_shows_what_a_new_one_shows(self, reach: LiveTask) -> None:
        expert = reach.expert()
        for _ in range(30):
            reach.step(expert(reach.observation))
        assert reach.start(7) is reach.observation
        again = reach.render()
        with LiveTask("reach-v3", 7, image_hw=HW) as new:
            fresh = new.render()
            np.testing.assert_array_equal(reach.observation, new.observation)
        np.testing.assert_array_equal(again.image, fresh.image)
        np.testing.assert_array_equal(again.depth_m, fresh.depth_m)

    def test_seeds_differ_in_goal_and_camera(self, reach: LiveTask) -> None:
        goals, poses = zip(*[(reach.start(seed)[-3:], reach.pose()) for seed in range(8)], strict=True)
        assert np.ptp(goals, axis=0)[2] > 0.05
        assert 0.02 < np.std([pose[:3, 3] for pose in poses], axis=0).mean() < 0.15

    def test_the_goal_is_drawn_where_the_observation_says(self, reach: LiveTask) -> None:
        off = []
        for seed in range(5):
            goal_m = reach.start(seed)[-3:]
            frame = reach.render()
            row, column, distance_m = goal_pixel(frame, goal_m)
            off.append(distance_m - float(frame.depth_m[row, column]))
        assert 0.0 < np.median(off) < 0.03  # the mark's front

    def test_the_scripted_policy_does_the_task(self, reach: LiveTask) -> None:
        reach.start(3)
        expert = reach.expert()
        assert not reach.success
        while not reach.success and reach.steps < 100:
            reach.step(expert(reach.observation))
        assert reach.success

    def test_another_look_is_from_the_pose_that_is_given(self, reach: LiveTask) -> None:
        reach.start(2)
        pose = reach.pose()
        pose[0, 3] += 0.05
        np.testing.assert_array_equal(reach.render(pose).camera_to_world, pose)
        np.testing.assert_array_equal(reach.render().camera_to_world, reach.pose())
        parts = reach.parts()
        assert parts.shape == (*HW, 2)
        assert ((parts[..., 0] < 0) == np.isinf(reach.render().depth_m)).all()

    def test_a_plain_picture_lacks_shadows_and_no_truth(self, reach: LiveTask) -> None:
        reach.start(2)
        frame = reach.render()
        np.testing.assert_array_equal(reach.image(), frame.image)
        with LiveTask("reach-v3", 2, image_hw=HW, plain=True) as plain:
            sooner = plain.render()
        np.testing.assert_allclose(sooner.camera_to_world, frame.camera_to_world)
        same = np.isclose(sooner.depth_m, frame.depth_m, atol=0.005)
        assert same.mean() > 0.95  # all but edges
        darker = sooner.image.astype(float).mean(axis=2) - frame.image.mean(axis=2) > 20
        assert 0.005 < darker.mean() < 0.5

    def test_there_are_500_steps(self, reach: LiveTask) -> None:
        reach.start(2)
        for _ in range(500):
            reach.step(np.zeros(4))
        with pytest.raises(ConfigError, match=r"has had its 500 steps; start\(seed\) begins anew"):
            reach.step(np.zeros(4))


class TestWhatCannotBe:
    def test_an_unknown_task_is_named_with_the_nearest(self) -> None:
        with pytest.raises(ConfigError, match=r"task of a live task must be one of .*got 'reach-v2'.*'reach-v3'"):
            LiveTask("reach-v2")

    def test_an_unknown_camera_is_named_with_those_there_are(self) -> None:
        with pytest.raises(ConfigError, match=r"camera of a live task must be one of corner, corner2.*got 'wrist'"):
            LiveTask("reach-v3", camera="wrist")

    @pytest.mark.parametrize("seed", [-1, 2**31, 1.0, True])
    def test_a_seed_is_a_number(self, seed: int) -> None:
        with pytest.raises(ConfigError, match="seed of a live task"):
            LiveTask("reach-v3", seed)

    def test_a_size_is_a_number_of_pixels(self) -> None:
        with pytest.raises(ConfigError, match="width of a live task's pictures"):
            LiveTask("reach-v3", image_hw=(48, 0))

    def test_without_meta_world_its_extra_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(__import__("sys").modules, "metaworld.env_dict", None)
        with pytest.raises(ConfigError, match=r"Meta-World needs metaworld.env_dict .*spaceclip-plugin\[metaworld\]"):
            states.task_environment("reach-v3", 0)
        with pytest.raises(ConfigError):
            LiveTask("reach-v3")

    def test_without_opengl_the_packages_are_named(
        self, draw: Callable[..., object], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import mujoco

        def nothing(*args: object) -> None:
            raise RuntimeError("no EGL device")

        monkeypatch.setattr(mujoco, "Renderer", nothing)
        with pytest.raises(ConfigError, match=r"no EGL device.*libegl1 and libgl1-mesa-dri.*libosmesa6"):
            LiveTask("reach-v3", image_hw=HW)
