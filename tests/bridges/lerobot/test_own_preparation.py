"""Photos reach a policy's tower, alone, as the very bits that the policy shows it when it acts on them."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("lerobot.policies", reason="needs lerobot, in an environment of its own: make test-lerobot")

from packed_policies import XVLA
from row_policies import PI0, SMOLVLA
from step_world import TOP, act, head_for, shown
from tiny_policies import POLICIES
from tiny_policy import TinyPolicy

from spaceclip_plugin import attach_depth_head
from spaceclip_plugin.data import DepthSample
from spaceclip_plugin.errors import HostError
from spaceclip_plugin.evaluation import evaluate, get_protocol
from spaceclip_plugin.towers import ImageGeometry

HW = (48, 64)
padding_policies = pytest.mark.parametrize(
    "tiny", [tiny for tiny in (PI0, SMOLVLA, XVLA) if tiny in POLICIES], ids=lambda tiny: tiny.name
)


def photos(count: int) -> list[np.ndarray]:
    return [np.random.default_rng(i).integers(0, 256, (*HW, 3), np.uint8) for i in range(count)]


@padding_policies
def test_pixels_are_those_that_it_acts_on(tiny: TinyPolicy) -> None:
    policy, photo = tiny.seeded(), photos(1)[0]
    head = head_for(policy)
    with attach_depth_head(policy, head) as attachment:
        preparation = attachment.preparation
        act(policy, shown(tiny, photo))
        acted_on = attachment.features()[0]
        attachment.refresh(preparation([photo]))
        alone = attachment.features()[-1]
    for tap in head.taps:
        torch.testing.assert_close(alone.hidden[tap][0], acted_on.hidden[tap][0], atol=1e-5, rtol=1e-5)
    assert preparation.image_hw == tiny.image_hw
    assert preparation.mapping(HW).camera_hw == HW


@pytest.mark.parametrize("tiny", [tiny for tiny in (PI0, SMOLVLA) if tiny in POLICIES], ids=lambda tiny: tiny.name)
def test_evaluation_scores_what_its_steps_give(tiny: TinyPolicy) -> None:
    policy, protocol = tiny.seeded(), get_protocol("whole-image")
    truth_m = np.linspace(1.0, 4.0, HW[0] * HW[1], dtype=np.float32).reshape(HW)
    samples = [DepthSample(photo, truth_m, f"photo {number}") for number, photo in enumerate(photos(3))]
    with attach_depth_head(policy, head_for(policy)) as attachment:
        result = evaluate(attachment, samples, protocol=protocol)
        for sample, score in zip(samples, result.per_image, strict=True):
            policy.reset()
            act(policy, shown(tiny, sample.image))
            depth = attachment.read()[0].in_camera()
            off = (depth.depth_m[0].clamp(1e-3, 10) - torch.from_numpy(truth_m)).abs() / torch.from_numpy(truth_m)
            assert score.metrics.abs_rel == pytest.approx(float(off[depth.valid[0]].mean()), abs=1e-4)
            assert depth.camera == TOP.removeprefix("observation.images.")
        ImageGeometry.STRETCH.declare(policy)
    with attach_depth_head(policy, head_for(policy)) as attachment:
        stretched = evaluate(attachment, samples, protocol=protocol)
    assert abs(stretched.mean.abs_rel - result.mean.abs_rel) > 3e-4  # thrice the tolerance


def test_a_copy_elsewhere_tells_where_pixels_lie_and_makes_none() -> None:
    policy = SMOLVLA.seeded()
    with attach_depth_head(policy, head_for(policy)) as attachment:
        preparation: Any = attachment.preparation
    there = pickle.loads(pickle.dumps(preparation))
    assert there.mapping(HW) == preparation.mapping(HW)
    assert there.name == preparation.name
    for one in (there, copy.copy(there)):
        with pytest.raises(HostError, match="is gone"):
            one(photos(1))


def test_one_that_shows_images_as_they_are_is_stretched_and_said(caplog: pytest.LogCaptureFixture) -> None:
    policy = SMOLVLA.seeded()
    policy.config.resize_imgs_with_padding = None
    with attach_depth_head(policy, head_for(policy)) as attachment:
        assert attachment.preparation.kind == "stretch"
    assert "--preparation" in caplog.text
