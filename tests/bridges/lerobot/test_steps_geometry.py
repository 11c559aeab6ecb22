"""Padding never counts: the guard judges the cameras' own images, and depth comes pixel for pixel over them."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from spaceclip_plugin import attach_depth_head
from spaceclip_plugin.data.preparation import DeclaredPreparation
from spaceclip_plugin.depth.image_mapping import ImageMapping
from spaceclip_plugin.errors import HostError
from spaceclip_plugin.towers import ImageGeometry

pytest.importorskip("lerobot.policies", reason="needs lerobot, in an environment of its own: make test-lerobot")

from lerobot.configs.types import FeatureType, PolicyFeature
from packed_policies import MOLMOACT2, XVLA
from row_policies import MULTI_TASK_DIT, PI0, SMOLVLA
from step_world import TOP, WRIST, act, guard, head_for, images_of, known_m, padding_of
from tiny_policies import POLICIES
from tiny_policy import CAMERAS, TinyPolicy

from spaceclip_plugin.bridges.lerobot import DepthGuardStep, DepthProcessorStep

CLEAR_M, NEAR_M = 4.0, 0.2
# Images that each policy pads without resizing them: a pixel of the camera is a pixel of the tower's image.
UNSCALED = {"pi0": (42, 56), "smolvla": (48, 64), "xvla": (48, 64)}
padding_policies = pytest.mark.parametrize(
    "tiny", [tiny for tiny in (PI0, SMOLVLA, XVLA) if tiny in POLICIES], ids=lambda tiny: tiny.name
)


def configured(tiny: TinyPolicy, hw: tuple[int, int]) -> Any:
    """The policy, as trained on images of that size."""
    policy = tiny.seeded()
    for camera in CAMERAS:
        policy.config.input_features[camera] = PolicyFeature(type=FeatureType.VISUAL, shape=(3, *hw))
    return policy


needs_dit = pytest.mark.skipif(MULTI_TASK_DIT not in POLICIES, reason="the installed lerobot has no such policy")


needs_molmo = pytest.mark.skipif(MOLMOACT2 not in POLICIES, reason="the installed lerobot has no such policy")


def batch_of(tiny: TinyPolicy, hw: tuple[int, int], robots: int = 1) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    images = {camera: torch.rand(robots, 3, *hw, generator=generator) for camera in CAMERAS}
    return {**tiny.batch(robots), **images}


def head_that_says(policy: Any, depth_of: Callable[[tuple[int, int]], Tensor]) -> Any:
    """A head whose depth is `depth_of` the size of the tower's image, in metres, whatever it sees."""
    head = head_for(policy)

    def said(_module: Any, _args: Any, output: Any) -> Any:
        return dataclasses.replace(output, depth_m=depth_of(tuple(output.depth_m.shape[1:])).expand_as(output.depth_m))

    head.register_forward_hook(said)
    return head


def picture(mapping: ImageMapping, near: int = 0, *, bars_m: float = NEAR_M) -> Callable[[tuple[int, int]], Tensor]:
    """A clear view with so many near pixels from the photo's upper left corner on, and bars of another depth around."""

    def depth_of(hw: tuple[int, int]) -> Tensor:
        shown = mapping.valid_tower_pixels(hw)
        depth = torch.full(hw, bars_m)
        photo = torch.full((int(shown.sum()),), CLEAR_M)
        photo[:near] = NEAR_M
        depth[shown] = photo
        return depth

    return depth_of


def decided(tiny: TinyPolicy, depth_of: Callable[[tuple[int, int]], Tensor], *, both: bool, **settings: Any) -> Any:
    """What the guard says of the first action, alone or behind the depth step."""
    policy, batch = configured(tiny, UNSCALED[tiny.name]), batch_of(tiny, UNSCALED[tiny.name])
    head = head_that_says(policy, depth_of)
    step = DepthGuardStep(head, actions="velocity", guard=guard(**settings))
    first = DepthProcessorStep(head)
    for each in (first, step) if both else (step,):
        each.connect(policy)
    if both:
        first.observation(images_of(batch))
    step.action(act(policy, batch))
    [decision] = step.decisions
    return decision


each_way = pytest.mark.parametrize("both", [False, True], ids=["alone", "behind the depth step"])


class TestGuard:
    @padding_policies
    @each_way
    def test_a_near_bar_is_nothing(self, tiny: TinyPolicy, both: bool) -> None:
        mapping = padding_of(tiny, UNSCALED[tiny.name])
        assert int((~mapping.valid_tower_pixels()).sum()) == tiny.image_hw[0] * tiny.image_hw[1] // 4
        decision = decided(tiny, picture(mapping), both=both, stop_below_m=0.25, slow_below_m=0.6, near_share=0.0)
        assert decision.reaction == "pass"
        assert decision.reason.endswith(": 4.000 m")

    @padding_policies
    @each_way
    def test_an_obstacle_is_its_share_of_the_photo(self, tiny: TinyPolicy, both: bool) -> None:
        """2 % of the photo's pixels decide, wherever the bars: of the square's they would be a third more."""
        mapping = padding_of(tiny, UNSCALED[tiny.name])
        pixels = UNSCALED[tiny.name][0] * UNSCALED[tiny.name][1]
        least = -(-2 * pixels // 100)
        assert least < round(0.022 * pixels) < -(-2 * tiny.image_hw[0] * tiny.image_hw[1] // 100)
        limits = {"stop_below_m": 0.25, "slow_below_m": 0.6, "near_share": 0.02}
        for near, expected in ((least - 1, "pass"), (least, "stop"), (round(0.022 * pixels), "stop")):
            far_bars = picture(mapping, near, bars_m=9.0)
            assert decided(tiny, far_bars, both=both, **limits).reaction == expected

    @padding_policies
    def test_the_region_is_of_the_photo(self, tiny: TinyPolicy) -> None:
        mapping, (height, width) = padding_of(tiny, UNSCALED[tiny.name]), UNSCALED[tiny.name]
        limits = {"stop_below_m": 0.25, "slow_below_m": 0.6, "near_share": 0.0, "region": (0.5, 0.0, 1.0, 1.0)}
        for near, expected in ((height // 2 * width, "pass"), (height // 2 * width + 1, "stop")):
            assert decided(tiny, picture(mapping, near), both=False, **limits).reaction == expected

    @padding_policies
    def test_the_share_that_must_be_known_is_of_the_photo(self, tiny: TinyPolicy) -> None:
        mapping, (height, width) = padding_of(tiny, UNSCALED[tiny.name]), UNSCALED[tiny.name]

        def upper_half(hw: tuple[int, int]) -> Tensor:
            rows = torch.arange(hw[0])[:, None] < mapping.shown[0] + height // 2
            return torch.where(rows, CLEAR_M, 0.0).expand(hw)

        for share, expected in ((0.5, "pass"), (0.51, "stop")):
            decision = decided(tiny, upper_half, both=False, min_valid=share)
            assert decision.reaction == expected
        assert f"{height * width // 2} of {height * width} pixels have depth" in decision.reason


class TestDepthStep:
    @padding_policies
    @pytest.mark.parametrize("fresh", [False, True], ids=["last", "fresh"])
    @pytest.mark.parametrize("robots", [1, 2])
    def test_pixel_for_pixel(self, tiny: TinyPolicy, fresh: bool, robots: int) -> None:
        if tiny is XVLA and not fresh:
            pytest.skip("all its cameras are in one call: their depth has no names")
        policy, hw = tiny.seeded(), UNSCALED[tiny.name]
        generator = torch.Generator().manual_seed(2)
        said = 1 + torch.rand(tiny.image_hw, generator=generator)
        step = DepthProcessorStep(head_that_says(policy, lambda _: said), fresh=fresh)
        step.connect(policy)
        batch = batch_of(tiny, hw, robots)
        if not fresh:
            step.observation(images_of(batch))
            act(policy, batch)
        seen = step.observation(images_of(batch))
        photo = said[padding_of(tiny, hw).valid_tower_pixels()].reshape(hw)
        for camera in CAMERAS:
            assert seen[f"{camera}_depth"].shape == (robots, 1, *seen[camera].shape[2:])
            assert torch.equal(seen[f"{camera}_depth"], photo.expand(robots, 1, *hw))

    @padding_policies
    def test_a_camera_of_another_size_than_configured(self, tiny: TinyPolicy, caplog: pytest.LogCaptureFixture) -> None:
        """A square in the configuration, 4:3 on the robot: the camera decides, and a warning says so once for each."""
        policy, hw = configured(tiny, (64, 64)), UNSCALED[tiny.name]
        head = head_that_says(policy, picture(padding_of(tiny, hw)))
        limits = guard(stop_below_m=0.25, slow_below_m=0.6, near_share=0.0)
        first, last = DepthProcessorStep(head), DepthGuardStep(head, actions="velocity", guard=limits)
        for each in (first, last):
            each.connect(policy)
        batch = batch_of(tiny, hw)
        for _ in range(3):
            first.observation(images_of(batch))
            last.action(act(policy, batch))
            assert last.decisions[0].reaction == "pass"
        told = [record.getMessage() for record in caplog.records if "configuration says 64x64" in record.getMessage()]
        assert len(told) == len(CAMERAS)
        if tiny is not XVLA:
            depth = first.observation(images_of(batch))[f"{TOP}_depth"]
            assert torch.equal(depth, torch.full((1, 1, *hw), CLEAR_M))

    @padding_policies
    @pytest.mark.parametrize("said", [(64, 64), (64, 48)], ids=["a square", "upright"])
    def test_the_guard_alone_notices_it(self, tiny: TinyPolicy, said: tuple[int, int]) -> None:
        policy, hw = configured(tiny, said), UNSCALED[tiny.name]
        step = DepthGuardStep(head_that_says(policy, picture(padding_of(tiny, hw))), actions="velocity", guard=guard())
        step.connect(policy)
        batch = batch_of(tiny, hw)
        assert not step.action(act(policy, batch)).any()
        assert step.decisions[0].reaction == "stop"
        assert f"{said[0]}x{said[1]} (HxW) images" in step.decisions[0].reason

    def test_cameras_of_different_sizes_in_one_call(self) -> None:
        """X-VLA lays both in one batch: told apart by their order, where all of them are there."""
        policy, batch = XVLA.seeded(), batch_of(XVLA, (48, 64))
        batch[WRIST] = torch.rand(1, 3, 64, 32)
        for camera in CAMERAS:
            policy.config.input_features[camera] = PolicyFeature(FeatureType.VISUAL, tuple(batch[camera].shape[1:]))
        first, second = padding_of(XVLA, (48, 64)), padding_of(XVLA, (64, 32))
        both = iter((picture(first), picture(second)))
        maps = torch.stack([depth_of(XVLA.image_hw) for depth_of in both])
        head = head_for(policy)
        head.register_forward_hook(
            lambda _m, _a, output: dataclasses.replace(output, depth_m=maps[: len(output.depth_m)])
        )
        limits = guard(stop_below_m=0.25, slow_below_m=0.6, near_share=0.0)
        depth, step = DepthProcessorStep(head), DepthGuardStep(head, actions="velocity", guard=limits)
        for each in (depth, step):
            each.connect(policy)
        depth.observation(images_of(batch))
        step.action(act(policy, batch))
        assert step.decisions[0].reason.endswith(": 4.000 m")
        policy.reset()
        one = {name: value for name, value in batch.items() if name != TOP}
        depth.observation(images_of(one))
        step.action(act(policy, one))
        assert step.decisions[0].reaction == "stop"

    def test_unresized_images_are_the_cameras(self) -> None:
        policy = SMOLVLA.seeded()
        policy.config.resize_imgs_with_padding = None
        said = 1 + torch.rand(64, 64)
        step = DepthProcessorStep(head_that_says(policy, lambda _: said), fresh=True)
        step.connect(policy)
        seen = step.observation(images_of(batch_of(SMOLVLA, (64, 64))))
        assert torch.equal(seen[f"{TOP}_depth"][0, 0], said)

    @needs_molmo
    def test_how_images_are_made_is_not_known(self, caplog: pytest.LogCaptureFixture) -> None:
        policy = MOLMOACT2.seeded()
        step = DepthGuardStep(head_for(policy), actions="velocity", guard=guard())
        step.connect(policy)
        for _ in range(3):
            policy.reset()
            step.action(act(policy, MOLMOACT2.batch(1)))
        assert sum("is not known" in record.getMessage() for record in caplog.records) == 1
        assert step.decisions[0].reaction == "pass"


WORDS = pytest.mark.parametrize("words", ["stretch", "letterbox:centre", "letterbox:top-left", "centre-crop:56"])


class TestDeclaredPreparation:
    """Fresh depth is of images as a user declares them for the policy, else of those that the head learnt on."""

    @WORDS
    @pytest.mark.parametrize("tiny", [SMOLVLA, pytest.param(MULTI_TASK_DIT, marks=needs_dit)], ids=lambda one: one.name)
    def test_a_users_word_holds(self, tiny: TinyPolicy, words: str, caplog: pytest.LogCaptureFixture) -> None:
        if tiny is SMOLVLA and words == "centre-crop:56":
            words = "centre-crop:72"  # its tower's image is larger
        policy = tiny.seeded()
        head = learnt_on(policy, words)
        ImageGeometry.parse(words).declare(policy)
        assert torch.equal(fresh_depth(policy, head), depth_of_prepared(policy, head, words))
        assert "prepared otherwise" not in caplog.text

    @WORDS
    @needs_dit
    def test_else_the_heads_where_the_policys_is_not_known(self, words: str) -> None:
        policy = MULTI_TASK_DIT.seeded()
        head = learnt_on(policy, words)
        assert torch.equal(fresh_depth(policy, head), depth_of_prepared(policy, head, words))

    def test_a_policys_own_goes_before_the_heads(self, caplog: pytest.LogCaptureFixture) -> None:
        policy = SMOLVLA.seeded()
        own = fresh_depth(policy, learnt_on(policy, "letterbox:bottom-right"))
        assert "prepared otherwise" not in caplog.text
        assert torch.equal(fresh_depth(SMOLVLA.seeded(), learnt_on(policy, "stretch")), own)
        assert "prepared otherwise" in caplog.text


def learnt_on(policy: Any, words: str) -> Any:
    head = head_for(policy)
    head.config = dataclasses.replace(head.config, preparation=words)
    return head


def fresh_depth(policy: Any, head: Any) -> Tensor:
    step = DepthProcessorStep(head, fresh=True)
    step.connect(policy)
    [shown] = step.observation({TOP: picture_of_noise()})[f"{TOP}_depth"]
    return shown


def depth_of_prepared(policy: Any, head: Any, words: str) -> Tensor:
    """What the head says of the photo, prepared so, over the photo."""
    photo = picture_of_noise()[0].mul(255).round().byte().permute(1, 2, 0).numpy()
    with attach_depth_head(policy, head) as attachment:
        preparation = DeclaredPreparation(ImageGeometry.parse(words), attachment.tower)
        mapping = preparation.mapping((photo.shape[0], photo.shape[1]))
        attachment.refresh(preparation([photo]), mapping=mapping)
        return known_m(attachment.read()[0].in_camera())


def picture_of_noise() -> Tensor:
    return torch.rand(1, 3, 40, 64, generator=torch.Generator().manual_seed(7)).mul(255).round() / 255


class TestTheOwnPreparation:
    """What a policy's own function gives is believed as far as it is what is known of it."""

    def fresh(self, policy: Any) -> Any:
        step = DepthProcessorStep(head_for(policy), fresh=True)
        step.connect(policy)
        return step.observation(images_of(batch_of(SMOLVLA, (48, 64), 2)))

    @pytest.mark.parametrize(
        ("method", "said"),
        [
            (None, "there is no SmolVLAPolicy.prepare_images of LeRobot"),
            (lambda batch, extra: None, "TypeError"),
            (lambda batch: None, "TypeError"),
            (lambda batch: ([], []), "IndexError"),
            (lambda batch: (["image"], [None]), "not floating-point images"),
            (lambda batch: ([torch.zeros(2, 3, 64, 64, dtype=torch.uint8)], [None]), "not floating-point images"),
            (lambda batch: ([torch.zeros(2, 64, 64, 3)], [None]), r"\(2, 64, 64, 3\) where \(2, 3, 64, 64\)"),
            (lambda batch: ([torch.zeros(1, 3, 64, 64)], [None]), r"\(1, 3, 64, 64\) where \(2, 3, 64, 64\)"),
            (lambda batch: ([torch.zeros(2, 3, 32, 32)], [None]), r"\(2, 3, 32, 32\) where \(2, 3, 64, 64\)"),
            (lambda batch: ([torch.rand(2, 3, 64, 64)], [None]), "shows picture where padding is expected"),
        ],
    )
    def test_it_is_not_what_it_was(self, method: Any, said: str) -> None:
        policy = SMOLVLA.seeded()
        policy.prepare_images = method
        with pytest.raises(HostError, match=said):
            self.fresh(policy)

    @pytest.mark.parametrize(("tiny", "level"), [(SMOLVLA, logging.INFO), (PI0, logging.WARNING)])
    def test_it_is_named_once(self, tiny: TinyPolicy, level: int, caplog: pytest.LogCaptureFixture) -> None:
        if tiny not in POLICIES:
            pytest.skip("the installed lerobot has none of these policies")
        policy = tiny.seeded()
        step = DepthProcessorStep(head_for(policy), fresh=True)
        step.connect(policy)
        with caplog.at_level(logging.INFO, logger="spaceclip_plugin"):
            for _ in range(2):
                step.observation(images_of(tiny.batch(1)))
        name = {"smolvla": "SmolVLAPolicy.prepare_images", "pi0": "PI0Policy._preprocess_images"}[tiny.name]
        assert [record.levelno for record in caplog.records if name in record.getMessage()] == [level]

    @needs_dit
    def test_another_policys_method_of_that_name_is_not_called(self) -> None:
        policy = MULTI_TASK_DIT.seeded()
        policy.prepare_images = lambda batch: pytest.fail("another policy's method")
        step = DepthProcessorStep(head_for(policy), fresh=True)
        step.connect(policy)
        assert (step.observation(images_of(MULTI_TASK_DIT.batch(1)))[f"{TOP}_depth"] > 0).all()
