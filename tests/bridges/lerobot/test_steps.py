"""LeRobot's two depth steps: what they add, what they leave alone, how they travel and how they find their policy."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch

from spaceclip_plugin import DepthHead, attach_depth_head
from spaceclip_plugin.data.preparation import prepare
from spaceclip_plugin.depth.image_mapping import ImageMapping
from spaceclip_plugin.errors import ConfigError, HeadMismatchError, HostError

pytest.importorskip("lerobot.policies", reason="needs lerobot, in an environment of its own: make test-lerobot")

from lerobot.configs.types import NormalizationMode
from packed_policies import MOLMOACT2, XVLA
from row_policies import MULTI_TASK_DIT, PI0, PI0_FAST, PI05, SMOLVLA
from step_world import LENIENT, TOP, WRIST, act, add_both, guard, head_for, images_of, known_m, padding_of, pipelines
from tiny_policies import POLICIES
from tiny_policy import CAMERA_HW, CAMERAS, CHUNK, TinyPolicy, observation

from spaceclip_plugin.bridges.lerobot import DepthGuardStep, DepthProcessorStep, add_depth


def each_of(*policies: TinyPolicy) -> pytest.MarkDecorator:
    absent = pytest.param(
        None, marks=pytest.mark.skip(reason="the installed lerobot has none of these policies"), id="-"
    )
    here: list[Any] = [tiny for tiny in policies if tiny in POLICIES] or [absent]
    return pytest.mark.parametrize("tiny", here, ids=lambda tiny: tiny and tiny.name)


one_call_per_camera = each_of(PI0, PI05, PI0_FAST, SMOLVLA)
each_freshness = pytest.mark.parametrize("fresh", [False, True], ids=["last", "fresh"])


class TestDepthStep:
    @one_call_per_camera
    @each_freshness
    def test_the_depth_is_what_an_attachment_reads(self, tiny: TinyPolicy, fresh: bool) -> None:
        policy, batch = tiny.seeded(), tiny.batch(2)
        head = head_for(policy)
        with attach_depth_head(policy, head) as attachment:
            act(policy, batch)
            expected = {
                f"observation.images.{depth.camera}": depth.in_camera(padding_of(tiny)) for depth in attachment.read()
            }
        policy.reset()
        step = DepthProcessorStep(head, fresh=fresh)
        step.connect(policy)
        if not fresh:
            step.observation(images_of(batch))
            act(policy, batch)
        seen = step.observation(images_of(batch))
        for camera in CAMERAS:
            depth = seen[f"{camera}_depth"]
            assert depth.shape == (2, 1, *CAMERA_HW)
            assert depth.dtype == torch.float32
            assert torch.equal(depth[:, 0], known_m(expected[camera]))
            assert (depth > 0).all()
            assert seen[f"{camera}_depth_age"].tolist() == ([0, 0] if fresh else [1, 1])
            assert seen[f"{camera}_depth_age"].dtype == torch.int64

    @each_of(XVLA)
    def test_cameras_in_one_call_are_told_apart_when_fresh(self, tiny: TinyPolicy) -> None:
        policy, batch = tiny.seeded(), tiny.batch(2)
        head = head_for(policy)
        with attach_depth_head(policy, head) as attachment:
            act(policy, batch)
            expected = known_m(attachment.read()[0].in_camera(padding_of(tiny))).unflatten(0, (2, 2))
        step = DepthProcessorStep(head, fresh=True)
        step.connect(policy)
        seen = step.observation(images_of(batch))
        for place, camera in enumerate(CAMERAS):  # a batch of another size rounds otherwise
            torch.testing.assert_close(seen[f"{camera}_depth"][:, 0], expected[:, place], rtol=1e-4, atol=1e-5)

    @each_of(XVLA, MULTI_TASK_DIT)
    def test_cameras_in_one_call_have_no_names_else(self, tiny: TinyPolicy, caplog: pytest.LogCaptureFixture) -> None:
        policy, batch = tiny.seeded(), tiny.batch(2)
        step = DepthProcessorStep(head_for(policy))
        step.connect(policy)
        for _ in range(3):
            seen = step.observation(images_of(batch))
            assert [seen[f"{camera}_depth_age"].tolist() for camera in CAMERAS] == [[-1, -1], [-1, -1]]
            act(policy, batch)
        assert sum("cannot be told" in record.message for record in caplog.records) == 1

    @pytest.mark.parametrize("then", ["another size", "more robots", "a new episode"])
    def test_named_cameras_without_depth_are_not_called_unknown(
        self, then: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        policy, batch = SMOLVLA.seeded(), SMOLVLA.batch(1)
        step = DepthProcessorStep(head_for(policy))
        step.connect(policy)
        step.observation(images_of(batch))
        if then == "a new episode":
            step.reset()
        act(policy, batch)
        images = images_of(SMOLVLA.batch(2) if then == "more robots" else batch)
        if then == "another size":
            images = {camera: image.transpose(2, 3) for camera, image in images.items()}
        step.observation(images)
        assert not [record for record in caplog.records if "cannot be told" in record.message]

    @each_of(XVLA, SMOLVLA)
    def test_the_only_camera_needs_no_name(self, tiny: TinyPolicy) -> None:
        policy, batch = tiny.seeded(), tiny.batch(2)
        del policy.config.input_features[WRIST], batch[WRIST]
        batch[TOP] = batch[TOP].clone()
        batch[TOP][1] = 0.0
        head = head_for(policy)
        step, last = DepthProcessorStep(head), DepthGuardStep(head, actions="velocity", guard=LENIENT)
        for each in (step, last):
            each.connect(policy)
        step.observation(images_of(batch))
        last.action(act(policy, batch))
        seen = step.observation(images_of(batch))
        assert seen[f"{TOP}_depth_age"].tolist() == [1, 1]
        assert [bool(depth.any()) for depth in seen[f"{TOP}_depth"]] == [True, False]
        assert last.decisions[1].reason.startswith("camera 'top': 0 of")
        assert last.counts == {"pass": 1, "stop": 1}

    @each_of(MULTI_TASK_DIT, MOLMOACT2)
    def test_images_prepared_here(self, tiny: TinyPolicy) -> None:
        policy, batch = tiny.seeded(), tiny.batch(2)
        step = DepthProcessorStep(head_for(policy), fresh=True)
        step.connect(policy)
        seen = step.observation(images_of(batch))
        assert seen[f"{TOP}_depth"].shape == (2, 1, *CAMERA_HW)
        assert (seen[f"{TOP}_depth"] > 0).all()
        assert not torch.equal(seen[f"{TOP}_depth"], seen[f"{WRIST}_depth"])
        unknown = {name: image.clone() for name, image in images_of(batch).items()}
        unknown[TOP][0, 0, 0, 0] = torch.nan
        assert step.observation(dict(unknown))[f"{TOP}_depth_age"].tolist() == [-1, -1]
        brighter = {name: 3 * image for name, image in images_of(batch).items()}
        with pytest.raises(HostError, match=r"must hold floating-point images in \[0, 1\]"):
            step.observation(brighter)

    def test_images_that_are_normalised_later_are_prepared_here(self) -> None:
        policy, batch = SMOLVLA.seeded(), images_of(observation(1))
        policy.config.normalization_mapping["VISUAL"] = NormalizationMode.MEAN_STD
        head = head_for(policy)
        with attach_depth_head(policy, head) as attachment:
            photo = (255 * batch[TOP][0].permute(1, 2, 0)).round().byte().numpy()
            attachment.refresh(prepare([photo], attachment.tower))
            [expected] = attachment.read()
        step = DepthProcessorStep(head, fresh=True)
        step.connect(policy)
        stretched = expected.in_camera(ImageMapping.stretched(CAMERA_HW, SMOLVLA.image_hw))
        assert torch.equal(step.observation(batch)[f"{TOP}_depth"][:, 0], known_m(stretched))

    @each_freshness
    def test_placeholders_are_no_cameras(self, fresh: bool) -> None:
        policy, batch = SMOLVLA.seeded(empty_cameras=1), observation(1)
        head = head_for(policy)
        step, last = DepthProcessorStep(head, fresh=fresh), DepthGuardStep(head, actions="velocity", guard=LENIENT)
        for each in (step, last):
            each.connect(policy)
        batch["observation.images.empty_camera_0"] = torch.zeros_like(batch[TOP])
        seen = step.observation(dict(batch))
        assert "observation.images.empty_camera_0_depth" not in seen
        del batch["observation.images.empty_camera_0"]
        last.action(act(policy, batch))
        assert last.counts == {"pass": 1}

    def test_nothing_is_known_at_first(self, policy: Any) -> None:
        step = DepthProcessorStep(head_for(policy))
        step.connect(policy)
        seen = step.observation(images_of(observation(3)))
        for camera in CAMERAS:
            assert seen[f"{camera}_depth_age"].tolist() == [-1, -1, -1]
            assert seen[f"{camera}_depth"].shape == (3, 1, *CAMERA_HW)
            assert not seen[f"{camera}_depth"].any()

    @each_freshness
    def test_actions_and_everything_else_stay_the_same(self, policy: Any, fresh: bool) -> None:
        batch = observation(2)
        plain = [act(policy, batch) for _ in range(2 * CHUNK)]
        policy.reset()
        step = DepthProcessorStep(head_for(policy), fresh=fresh)
        step.connect(policy)
        for expected in plain:
            seen = step.observation(dict(batch))
            assert {name: value for name, value in seen.items() if "_depth" not in name} == batch
            assert torch.equal(act(policy, seen), expected)

    def test_ages_between_chunks(self, policy: Any) -> None:
        step, batch, ages = DepthProcessorStep(head_for(policy)), observation(1), []
        step.connect(policy)
        for _ in range(2 * CHUNK + 1):
            ages.append(int(step.observation(images_of(batch))[f"{TOP}_depth_age"]))
            act(policy, batch)
        assert ages == [-1, 1, 2, 3, 4, 1, 2, 3, 4]

    def test_fresh_between_chunks(self, policy: Any) -> None:
        step = DepthProcessorStep(head_for(policy), fresh=True)
        step.connect(policy)
        depths = []
        for robots in (1, 2, 3):
            seen = step.observation(images_of(observation(robots)))
            depths.append(seen[f"{TOP}_depth"][:1])
            assert seen[f"{TOP}_depth_age"].tolist() == [0] * robots
            act(policy, observation(1))
        assert not torch.equal(depths[0], depths[1])

    @each_freshness
    def test_a_black_image_has_no_depth(self, policy: Any, fresh: bool) -> None:
        batch = observation(2)
        batch[WRIST] = torch.zeros_like(batch[WRIST])
        step = DepthProcessorStep(head_for(policy), fresh=fresh)
        step.connect(policy)
        step.observation(images_of(batch))
        act(policy, batch)
        seen = step.observation(images_of(batch))
        assert not seen[f"{WRIST}_depth"].any()
        if fresh:
            assert (seen[f"{TOP}_depth"] > 0).all()

    def test_one_robot_sees_black(self, policy: Any) -> None:
        batch = observation(2)
        batch[TOP] = batch[TOP].clone()
        batch[TOP][1] = 0.0
        step = DepthProcessorStep(head_for(policy), fresh=True)
        step.connect(policy)
        depth = step.observation(images_of(batch))[f"{TOP}_depth"]
        assert (depth[0] > 0).all()
        assert not depth[1].any()

    @each_freshness
    def test_nan_pixels_have_no_depth(self, policy: Any, fresh: bool, caplog: pytest.LogCaptureFixture) -> None:
        batch = observation(1)
        batch[TOP] = batch[TOP].clone()
        batch[TOP][0, 0, 5, 5] = torch.nan
        step = DepthProcessorStep(head_for(policy), fresh=fresh)
        step.connect(policy)
        step.observation(images_of(batch))
        act(policy, batch)
        seen = step.observation(images_of(batch))
        assert int(seen[f"{TOP}_depth_age"]) == -1
        assert not seen[f"{TOP}_depth"].any()
        assert any("no depth: " in record.message and "NaN" in record.message for record in caplog.records)
        policy.reset()
        step.observation(images_of(observation(1)))
        act(policy, observation(1))
        assert int(step.observation(images_of(observation(1)))[f"{TOP}_depth_age"]) in (0, 1)

    def test_only_the_cameras_that_are_wanted(self, policy: Any) -> None:
        step = DepthProcessorStep(head_for(policy), cameras=["wrist"], fresh=True)
        step.connect(policy)
        seen = step.observation(images_of(observation(1)))
        assert {name for name in seen if "_depth" in name} == {f"{WRIST}_depth", f"{WRIST}_depth_age"}

    def test_a_camera_that_is_not_there(self, policy: Any) -> None:
        step = DepthProcessorStep(head_for(policy), fresh=True)
        step.connect(policy)
        seen = step.observation({TOP: observation(1)[TOP]})
        assert set(seen) == {TOP, f"{TOP}_depth", f"{TOP}_depth_age"}
        assert step.observation({"observation.state": torch.zeros(1, 6)}).keys() == {"observation.state"}

    def test_an_image_without_a_batch(self, policy: Any) -> None:
        step = DepthProcessorStep(head_for(policy))
        step.connect(policy)
        with pytest.raises(HostError, match=r"must be \(B, 3, H, W\), got \(3, 48, 64\)"):
            step.observation({TOP: observation(1)[TOP][0]})

    def test_an_episode_begins(self, policy: Any) -> None:
        step, batch = DepthProcessorStep(head_for(policy)), images_of(observation(1))
        step.connect(policy)
        step.observation(dict(batch))
        act(policy, observation(1))
        assert int(step.observation(dict(batch))[f"{TOP}_depth_age"]) == 1
        step.reset()
        assert int(step.observation(dict(batch))[f"{TOP}_depth_age"]) == -1


class TestRefusals:
    @pytest.mark.parametrize("kind", [DepthProcessorStep, DepthGuardStep])
    def test_an_untrained_head(self, policy: Any, kind: Any) -> None:
        said = {"actions": "velocity"} if kind is DepthGuardStep else {}
        for head in (head_for(policy, trained=False), head_for(policy, trained=False).config.to_dict()):
            with pytest.raises(ConfigError, match="the head was not trained"):
                kind(head, **said)
        allowed = {"guard": guard(allow_untrained=True)} if said else {"allow_untrained": True}
        kind(head_for(policy, trained=False), **said, **allowed)

    def test_no_head(self, policy: Any) -> None:
        for head in (None, 3, DepthHead.for_tower(policy, trained_on="noise").eval().fuse()):
            with pytest.raises(ConfigError, match="a step carries an unfused DepthHead"):
                DepthProcessorStep(head)

    @pytest.mark.parametrize("cameras", ["top", [], ["top", "top"], [3]])
    def test_cameras_that_cannot_be(self, policy: Any, cameras: Any) -> None:
        with pytest.raises(ConfigError, match="different camera names"):
            DepthProcessorStep(head_for(policy), cameras=cameras)

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            ({"actions": "speed"}, "actions must be one of velocity, position, got 'speed'"),
            ({"actions": "velocity", "guard": {"stop_below": 1}}, "did you mean 'stop_below_m'"),
            ({"actions": "velocity", "stop_action": [float("nan")]}, "stop_action"),
        ],
    )
    def test_settings_of_the_guard_step(self, policy: Any, given: Any, message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            DepthGuardStep(head_for(policy), **given)


class TestAddDepth:
    def test_where_the_steps_go(self, policy: Any) -> None:
        preprocessor, postprocessor = pipelines(policy)
        add_both(preprocessor, postprocessor, head_for(policy), guard=LENIENT, policy=policy)
        names = [type(step).__name__ for step in (*preprocessor.steps, *postprocessor.steps)]
        assert names[2:4] == ["DepthProcessorStep", "NormalizerProcessorStep"]
        assert names[4:] == ["UnnormalizerProcessorStep", "DeviceProcessorStep", "DepthGuardStep"]
        other = SMOLVLA.seeded()  # connected: another policy alive is no matter
        preprocessor(observation(1))
        postprocessor(act(policy, observation(1)))
        assert postprocessor.steps[-1].counts == {"pass": 1}
        del other

    def test_without_a_guard(self, policy: Any) -> None:
        preprocessor, postprocessor = pipelines(policy)
        add_depth(preprocessor, postprocessor, DepthProcessorStep(head_for(policy)))
        assert [len(preprocessor.steps), len(postprocessor.steps)] == [4, 2]

    def test_what_cannot_be_leaves_both_as_they_were(self, policy: Any) -> None:
        preprocessor, postprocessor = pipelines(policy)
        depth, before = DepthProcessorStep(head_for(policy)), [*preprocessor.steps, *postprocessor.steps]
        with pytest.raises(HeadMismatchError):
            add_depth(preprocessor, postprocessor, depth, policy=XVLA.seeded())
        with pytest.raises(HostError, match="normalizer_processor"):
            add_depth(postprocessor, postprocessor, depth)
        assert [*preprocessor.steps, *postprocessor.steps] == before
        add_depth(preprocessor, postprocessor, depth)
        with pytest.raises(ConfigError, match="already"):
            add_depth(preprocessor, postprocessor, depth)

    @pytest.mark.parametrize("named", [(), ("top",)])
    def test_the_guard_asks_for_the_cameras_of_the_depth_step(self, policy: Any, named: tuple[str, ...]) -> None:
        preprocessor, postprocessor = pipelines(policy)
        add_both(preprocessor, postprocessor, head_for(policy), guard=guard(cameras=named), cameras=["wrist"])
        assert postprocessor.steps[-1].guard.limits.cameras == (named or ("wrist",))


def test_importing_registers_both_and_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    from lerobot.processor import ProcessorStepRegistry

    assert ProcessorStepRegistry.get("spaceclip_depth") is DepthProcessorStep
    assert ProcessorStepRegistry.get("spaceclip_depth_guard") is DepthGuardStep
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
