"""Steady depth in LeRobot's loops: one video for each robot and camera, from one episode's beginning to its end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from spaceclip_plugin.errors import HostError
from spaceclip_plugin.guard import NewestDepth

pytest.importorskip("lerobot.policies", reason="needs lerobot, in an environment of its own: make test-lerobot")

from heads_that_tell import telling
from packed_policies import XVLA
from row_policies import SMOLVLA
from step_world import LENIENT, TOP, WRIST, act, add_both, guard, head_for, images_of, loaded, long_chunks, pipelines
from tiny_policy import CAMERA_HW, CHUNK, observation

from spaceclip_plugin.bridges.lerobot import DepthGuardStep, DepthProcessorStep

PLACE = "observation.camera_to_world.top"
LENS = [50.0, 50.0, 32.0, 24.0, *CAMERA_HW]
each_freshness = pytest.mark.parametrize("fresh", [False, True], ids=["as seen", "fresh"])


def surfaces(*seeds: int) -> Tensor:
    """(B, 3, H, W) images in which surfaces can be found again, one scene for each robot."""
    scenes = [torch.rand(1, 3, 12, 16, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    return interpolate(torch.cat(scenes), size=CAMERA_HW, mode="bilinear")


def batch_of(*seeds: int) -> dict[str, Any]:
    """The scenes in both cameras."""
    images = surfaces(*seeds)
    return {**observation(len(seeds)), TOP: images, WRIST: images.flip(-1)}


class Loop:
    """A policy and its steady steps, driven as LeRobot's loops do; what was said of each robot and camera."""

    def __init__(self, policy: Any, *, settings: Any = LENIENT, **options: Any) -> None:
        self.policy = policy
        self.pipelines = pipelines(policy)
        head = options.pop("head", None) or head_for(policy)
        add_both(*self.pipelines, head, guard=settings, policy=policy, steady=True, **options)
        self.guard = self.pipelines[1].steps[-1]
        self.reset()  # the policy may be read by steps of another loop already

    def step(self, batch: dict[str, Any]) -> dict[str, Any]:
        seen: dict[str, Any] = self.pipelines[0](dict(batch))
        self.pipelines[1](act(self.policy, seen))
        return seen

    def reset(self) -> None:
        for each in (self.policy, *self.pipelines):
            each.reset()

    @property
    def newest(self) -> list[NewestDepth]:
        found: list[NewestDepth] = self.guard._linked().newest
        return found

    def frames(self, camera: str = "top") -> list[int]:
        """How many went into the depth of each robot."""
        return [self.told(robot, camera).frames for robot in range(len(self.newest))]

    def told(self, robot: int, camera: str = "top") -> Any:
        [told] = next(image.steady for image in self.newest[robot].images if image.camera == camera)
        return told


class TestEpisodes:
    def test_every_look_counts_and_an_episode_begins_anew(self, policy: Any) -> None:
        loop = Loop(policy, fresh=True)
        for frames in (1, 2, 3):
            loop.step(batch_of(0))
            assert [loop.frames("top"), loop.frames("wrist")] == [[frames], [frames]]
        loop.reset()
        loop.step(batch_of(0))
        assert [loop.frames("top"), loop.told(0).reset] == [[1], "the first frame"]

    def test_earlier_frames_have_a_say(self, policy: Any) -> None:
        """Light that changes moves what a frame alone says more than what all of them say."""
        loop = Loop(policy, fresh=True)
        one, other = batch_of(0), batch_of(0)
        other[TOP] = 0.9 * other[TOP]
        before, after = (loop.step(batch)[f"{TOP}_depth"] for batch in (one, other))
        loop.reset()
        alone = loop.step(other)[f"{TOP}_depth"]
        known = (before > 0) & (alone > 0)
        assert 0 < (after - before)[known].abs().mean() < 0.8 * (alone - before)[known].abs().mean()

    def test_a_policy_that_looks_once_per_chunk(self) -> None:
        policy = long_chunks(SMOLVLA.seeded(), steps=CHUNK)
        loop, frames = Loop(policy), []
        for _ in range(2 * CHUNK + 1):
            loop.step(batch_of(0))
            frames += loop.frames()
        assert frames == [1] * CHUNK + [2] * CHUNK + [3]

    def test_the_actions_stay_the_policys_own(self, policy: Any) -> None:
        batches, sent = [batch_of(seed) for seed in (0, 0, 1, 1, 2)], []
        plain = pipelines(policy)[0]
        for preprocessor in (plain, Loop(policy, fresh=True).pipelines[0]):
            policy.reset()
            sent.append(torch.stack([act(policy, preprocessor(dict(batch))) for batch in batches]))
        assert torch.equal(*sent)


class TestRobots:
    @each_freshness
    def test_each_has_a_video_of_its_own(self, policy: Any, fresh: bool) -> None:
        policy.config.n_action_steps = 1
        loop = Loop(policy, fresh=fresh)
        for _ in range(2):
            loop.step(batch_of(0, 1))
        other = batch_of(0, 1)
        other[TOP][1] = 1 - other[TOP][1]  # the second one's environment has begun another episode
        loop.step(other)
        assert loop.frames() == [3, 1]
        assert [loop.told(robot).reset for robot in (0, 1)] == [None, "the image changed at once"]
        policy.config.n_action_steps = CHUNK

    def test_depth_is_that_of_a_robot_alone(self, policy: Any) -> None:
        loop = Loop(policy, fresh=True)
        for _ in range(3):
            both = loop.step(batch_of(0, 1))[f"{TOP}_depth"]
        loop.reset()
        for _ in range(3):
            alone = loop.step(batch_of(1))[f"{TOP}_depth"]
        torch.testing.assert_close(both[1:], alone, rtol=1e-3, atol=1e-4)

    def test_one_that_sees_black_has_no_depth(self, policy: Any) -> None:
        loop, dark = Loop(policy, fresh=True), batch_of(0, 1)
        loop.step(dict(dark))
        dark[TOP][1] = 0.0
        depth = loop.step(dark)[f"{TOP}_depth"]
        assert [bool(one.any()) for one in depth] == [True, False]
        assert loop.frames()[0] == 2
        assert loop.guard.decisions[1].reaction == "stop"


class TestPlaces:
    def sideways(self, *metres: float) -> Tensor:
        places = torch.eye(4).repeat(len(metres), 1, 1)
        places[:, 0, 3] = torch.tensor(metres)
        return places

    @each_freshness
    def test_they_are_compared_with_what_images_show(self, policy: Any, fresh: bool) -> None:
        """Images of a camera that stands, told to have moved: nobody believes it of that robot."""
        policy.config.n_action_steps = 1
        loop = Loop(policy, fresh=fresh, intrinsics={"top": LENS})
        for moved_m in (0.0, 5.0):
            loop.step({**batch_of(0, 1), PLACE: self.sideways(0.0, moved_m)})
        assert [loop.frames(), loop.told(0).doubt] == [[2, 2], None]
        assert "do not move as the camera's places say" in str(loop.told(1).doubt)
        policy.config.n_action_steps = CHUNK

    def test_one_for_all_robots(self, policy: Any) -> None:
        loop = Loop(policy, fresh=True, intrinsics={"top": LENS})
        for _ in range(2):
            loop.step({**batch_of(0, 1), PLACE: torch.eye(4)})
        assert [loop.told(robot).doubt for robot in (0, 1)] == [None, None]

    def test_metres_are_those_of_the_robots_camera_from_the_first_frame_on(self, policy: Any) -> None:
        head = telling(head_for(policy), focal_length=(1.0, 1.0), familiar=None)
        loop = Loop(policy, head=head, fresh=True, intrinsics={"top": LENS})
        first = loop.step(batch_of(0))[f"{TOP}_depth"]
        other = SMOLVLA.seeded()
        unsteady = DepthProcessorStep(head, fresh=True, intrinsics={"top": LENS}, policy=other)
        torch.testing.assert_close(first, unsteady.observation(images_of(batch_of(0)))[f"{TOP}_depth"])

    @pytest.mark.parametrize(
        ("key", "place", "named"),
        [
            ("observation.camera_to_world.tip", torch.eye(4), "'top'"),
            (PLACE, torch.zeros(4, 4), "rotation"),
            (PLACE, torch.eye(3), r"\(4, 4\)"),
            (PLACE, torch.eye(4).repeat(3, 1, 1), "2 images"),
            (PLACE, torch.full((4, 4), torch.nan), "NaN"),
        ],
    )
    def test_what_is_no_place(self, policy: Any, key: str, place: Tensor, named: str) -> None:
        loop = Loop(policy, fresh=True)
        with pytest.raises(HostError, match=named) as error:
            loop.step({**batch_of(0, 1), key: place})
        assert key in str(error.value)

    def test_a_log_says_where_they_are_of_no_use(self, policy: Any, caplog: pytest.LogCaptureFixture) -> None:
        loop = Loop(policy, fresh=True)
        for _ in range(2):
            loop.step({**batch_of(0), PLACE: torch.eye(4)})
        assert sum("but not its intrinsics" in record.getMessage() for record in caplog.records) == 1
        packed = XVLA.seeded()
        step = DepthProcessorStep(head_for(packed), steady=True)
        step.connect(packed)
        for _ in range(2):
            step.observation({**images_of(XVLA.batch(1)), PLACE: torch.eye(4)})
        assert sum("not which camera" in record.getMessage() for record in caplog.records) == 1

    def test_without_steady_depth_they_are_anyones(self, policy: Any) -> None:
        step = DepthProcessorStep(head_for(policy), fresh=True)
        step.connect(policy)
        step.observation({**images_of(batch_of(0)), PLACE: torch.zeros(4, 4)})


class TestGuard:
    def test_a_frozen_camera_is_found_all_the_same(self, policy: Any) -> None:
        """Fused with itself, the very same depth differs in its last bits."""
        loop, seen = Loop(policy, settings=guard(frozen_after=2), fresh=True), []
        for _ in range(4):
            loop.step(batch_of(0))
            seen.append(loop.guard.decisions[0].reaction)
        assert seen == ["pass", "pass", "stop", "stop"]

    def test_a_guard_that_was_connected_first_judges_it_too(self, policy: Any) -> None:
        head = head_for(policy)
        last, depth = DepthGuardStep(head, actions="velocity", guard=LENIENT), DepthProcessorStep(head, steady=True)
        last.connect(policy)
        last.action(act(policy, batch_of(0)))  # depth of the frame alone, so far
        act(policy, batch_of(0))
        depth.connect(policy)
        policy.reset()
        depth.observation(images_of(batch_of(0)))
        last.action(act(policy, batch_of(0)))
        assert [len(image.steady) for image in last._linked().newest[0].images] == [1, 1]


class TestTravelling:
    def test_the_config_keeps_it_and_older_ones_have_none(self, policy: Any) -> None:
        head = head_for(policy)
        saved = json.loads(json.dumps(DepthProcessorStep(head, steady=True).get_config()))
        assert DepthProcessorStep(**saved).steady is True
        assert "steady" not in DepthProcessorStep(head).get_config()
        assert DepthProcessorStep(**{**saved, "steady": False}).steady is False

    def test_a_loaded_pipeline_does_the_same(self, policy: Any, tmp_path: Path) -> None:
        saved = Loop(policy, fresh=True)
        for each in saved.pipelines:
            each.save_pretrained(tmp_path)
        other = SMOLVLA.seeded()  # which no step has read yet
        told = {"preprocessor_overrides": {"spaceclip_depth": {"policy": other}}}
        depths = []
        for preprocessor, _ in (saved.pipelines, loaded(other, tmp_path, **told)):
            for seeds in ((0, 1), (0, 1), (2, 1)):
                seen = preprocessor(batch_of(*seeds))
            depths.append(seen[f"{TOP}_depth"])
        assert torch.equal(*depths)
