"""Where LeRobot's own functions put the camera's image in the tower's, against the mapping."""

from __future__ import annotations

import importlib

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from spaceclip_plugin.depth.image_mapping import ImageMapping

pytest.importorskip("lerobot.policies", reason="needs lerobot, in an environment of its own: make test-lerobot")

SIZES = [
    ((480, 640), (224, 224)),
    ((360, 540), (224, 224)),
    ((540, 360), (224, 224)),
    ((720, 1280), (512, 512)),
    ((100, 200), (224, 224)),
    ((101, 333), (224, 160)),
    ((224, 224), (224, 224)),
    ((512, 300), (512, 512)),
    ((480, 848), (224, 224)),
]


def padded(images: Tensor, hw: tuple[int, int], *, anchor: str) -> Tensor:
    """The image as the policies make it; in LeRobot 0.4 each has a function of its own."""
    try:
        shared = importlib.import_module("lerobot.policies.common.vla_utils")
    except ImportError:
        if anchor == "centre":
            pi0 = importlib.import_module("lerobot.policies.pi0.modeling_pi0")
            return pi0.resize_with_pad_torch(images, *hw)
        smolvla = importlib.import_module("lerobot.policies.smolvla.modeling_smolvla")
        return smolvla.resize_with_pad(images, hw[1], hw[0], pad_value=0)
    if anchor == "centre":
        return shared.resize_with_pad_torch(images, *hw)
    return shared.resize_with_pad(images, *hw, pad_value=0)


def ramp(hw: tuple[int, int]) -> Tensor:
    """(1, 3, H, W): u / W, v / H at the pixels' centres, and 1."""
    v, u = torch.meshgrid((torch.arange(hw[0]) + 0.5) / hw[0], (torch.arange(hw[1]) + 0.5) / hw[1], indexing="ij")
    return torch.stack([u, v, torch.ones(hw)])[None]


@pytest.mark.parametrize("anchor", ["centre", "bottom-right"])
@pytest.mark.parametrize(("camera_hw", "tower_hw"), SIZES)
def test_the_image_lies_where_the_mapping_says(
    camera_hw: tuple[int, int], tower_hw: tuple[int, int], anchor: str
) -> None:
    mapping = ImageMapping.letterboxed(camera_hw, tower_hw, anchor=anchor)  # type: ignore[arg-type]
    image = padded(ramp(camera_hw), tower_hw, anchor=anchor)[0]
    shown = mapping.valid_tower_pixels()
    assert torch.equal(image[2] > 0.5, shown)
    v, u = torch.meshgrid(torch.arange(tower_hw[0]) + 0.5, torch.arange(tower_hw[1]) + 0.5, indexing="ij")
    said = mapping.camera_pixels(torch.stack([u, v], dim=-1))
    read = image[:2].permute(1, 2, 0) * torch.tensor([camera_hw[1], camera_hw[0]])
    inside = -F.max_pool2d(-F.pad(shown[None].float(), [2] * 4), 5, 1)[0] > 0  # bilinear values stop at the borders
    assert inside.sum() > 1000
    torch.testing.assert_close(read[inside], said[inside], atol=0.02, rtol=0)
