"""Photos reach every policy's tower alone as the very bits that its own tower is given while it acts on them."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("lerobot.policies", reason="needs lerobot, in an environment of its own: make test-lerobot")

from acting_policies import batch_of, loaded, saved, tower_input
from hosted_policies import HOSTED, HostedPolicy
from step_world import act, head_for
from tiny_policy import CAMERAS

from spaceclip_plugin import attach_depth_head
from spaceclip_plugin.attach import ImagePreparation, declared
from spaceclip_plugin.bridges.lerobot import DepthProcessorStep
from spaceclip_plugin.bridges.lerobot.families.by_class import family_of
from spaceclip_plugin.towers import ImageStatistics, TowerSpec

HW = (48, 64)
pytestmark = pytest.mark.skipif(
    "PreTrainedPolicy" not in declared._known_policies(), reason="the package was installed before: install it again"
)


@pytest.mark.parametrize("hosted", HOSTED, ids=lambda one: one.kind)
def test_bits_and_places_are_those_that_it_acts_on(hosted: HostedPolicy, tmp_path: Path) -> None:
    photo = np.random.default_rng(0).integers(0, 256, (*HW, 3), np.uint8)
    try:
        saved(hosted, tmp_path)
        policy = loaded(hosted, tmp_path)
        acted_on = tower_input(policy, lambda: act(policy, batch_of(hosted, policy, photo)))
    except ImportError as error:
        pytest.skip(str(error))
    with attach_depth_head(policy, head_for(policy)) as attachment:
        preparation = attachment.preparation
        alone = tower_input(policy, lambda: attachment.refresh(preparation([photo])))
    assert preparation.name.startswith(f"{type(policy).__name__}.")
    assert torch.equal(alone.to(acted_on.dtype), acted_on[: len(alone)])
    image = torch.from_numpy(photo).permute(2, 0, 1)[None] / 255
    family = family_of(policy)
    assert family is not None
    step = DepthProcessorStep(head_for(policy), fresh=True)
    step.connect(policy)
    fresh = tower_input(policy, lambda: step.observation({CAMERAS[0]: family.normalised(image)}))
    assert torch.equal(fresh.to(acted_on.dtype), acted_on[: len(fresh)])
    check_places(preparation, attachment.tower)
    elsewhere = pickle.loads(pickle.dumps(preparation))
    for hw in (HW, (64, 48), (30, 90)):
        mapping, made = preparation.mapping(hw), preparation([np.zeros((*hw, 3), np.uint8)])
        assert (mapping.camera_hw, mapping.tower_hw) == (hw, preparation.image_hw)
        assert tuple(made.shape[2:]) == preparation.image_hw
        assert elsewhere.mapping(hw) == mapping


def check_places(preparation: ImagePreparation, tower: TowerSpec) -> None:
    """A photo whose red and green tell where a pixel is lies where the mapping says."""
    height, width = hw = (240, 320)
    v, u = np.meshgrid((np.arange(height) + 0.5) / height, (np.arange(width) + 0.5) / width, indexing="ij")
    photo = np.stack([255 * u, 255 * v, np.zeros(hw)], axis=2).round().astype(np.uint8)
    mapping, statistics = preparation.mapping(hw), ImageStatistics.of(tower)
    if preparation.name.startswith(("PI0", "PI05", "XVLA", "SmolVLA")):
        return  # see test_image_preparation.py
    mean, std = (torch.tensor(values)[:, None, None] for values in (statistics.mean, statistics.std))
    seen = (preparation([photo])[0].float() * std + mean)[:2].permute(1, 2, 0) * torch.tensor([width, height])
    rows, columns = torch.meshgrid(*(torch.arange(side) + 0.5 for side in preparation.image_hw), indexing="ij")
    said = mapping.camera_pixels(torch.stack([columns, rows], dim=-1))
    inside = (slice(3, -3), slice(3, -3))
    torch.testing.assert_close(seen[inside], said[inside], atol=2.5, rtol=0)
