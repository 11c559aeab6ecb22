from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from spaceclip_plugin import attach_depth_head
from spaceclip_plugin.errors import CheckpointError, ConfigError
from spaceclip_worlds.arm.embedded import HEAD_FOLDER, load_arm_head, tower_note
from spaceclip_worlds.arm.lessons import FIRST_SEED, samples_of
from spaceclip_worlds.arm.policy import load_arm_policy
from spaceclip_worlds.arm.two_cameras import TwoCameraTable


def test_the_head_is_small_and_for_the_tower_of_this_package() -> None:
    head = load_arm_head()
    assert head.trained
    assert sum(file.stat().st_size for file in HEAD_FOLDER.iterdir()) < 1.5e6
    assert head.config.base_model == tower_note(), "run examples/embedded/train_arm_head.py again"


def test_no_head_is_told(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError):
        load_arm_head(tmp_path)


def test_the_policy_looks_once_per_camera() -> None:
    policy = load_arm_policy()
    images = [TwoCameraTable(0).observe(side).image for side in ("left", "right")]
    with attach_depth_head(policy, load_arm_head(), cameras=["left", "right"]) as attachment:
        action = policy.select_action(images)
        frames = attachment.read()
        assert attachment.verify(lambda: policy.select_action(images)).identical
    assert action.shape == (7,)
    assert not torch.equal(action, policy.select_action(images[:1]))
    assert [frame.camera for frame in frames] == ["left", "right"]
    assert not any(parameter.requires_grad for parameter in policy.parameters())


@pytest.mark.usefixtures("drawing")
def test_lessons_are_pictures_of_the_arm_and_of_two_cameras() -> None:
    samples = samples_of("validation", 1)
    names = [sample.name for sample in samples]
    assert len(names) == len(set(names)) == 12
    assert sum("wrist" in name for name in names) == 4
    assert sum(" table" in name for name in names) == 4
    assert all(str(FIRST_SEED["validation"]) in name for name in names[:10])
    for sample in samples:
        assert sample.image.shape == (112, 112, 3)
        assert sample.image.std() > 5.0
        assert 0.05 < sample.depth_m.min() < sample.depth_m.max() < 5.0
        assert sample.intrinsics.fy_px == pytest.approx(120.09, abs=0.01)
    depths = [float(np.median(sample.depth_m)) for sample in samples]
    assert max(depths[4:8]) < min(depths[:4])
    with pytest.raises(ConfigError, match="did you mean 'test'"):
        samples_of("tests", 1)
    with pytest.raises(ConfigError, match="tables"):
        samples_of("test", 0)
