"""Where a policy's own preparation cannot be used, photos are stretched, and a warning says why and what to do."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("lerobot.policies", reason="needs lerobot, in an environment of its own: make test-lerobot")

from acting_policies import loaded, saved
from hosted_policies import HOSTED
from safetensors.torch import load_file, save_file
from step_world import head_for
from tiny_policy import CAMERAS

from spaceclip_plugin import attach_depth_head
from spaceclip_plugin.attach import declared
from spaceclip_plugin.bridges.lerobot import DepthProcessorStep
from spaceclip_plugin.bridges.lerobot.images import CameraGeometry
from spaceclip_plugin.depth import ImageMapping
from spaceclip_plugin.towers import ImageStatistics

pytestmark = pytest.mark.skipif(
    "PreTrainedPolicy" not in declared._known_policies(), reason="the package was installed before: install it again"
)


def policy_of(kind: str, folder: Path, spoil: Callable[[Path], None]) -> Any:
    """The policy of a checkpoint to which something was done."""
    hosted = next((one for one in HOSTED if one.kind == kind), None)
    if hosted is None:
        pytest.skip(f"the installed lerobot has no {kind}")
    try:
        saved(hosted, folder)
        spoil(folder)
        return loaded(hosted, folder)
    except ImportError as error:
        pytest.skip(str(error))


def without(*names: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        for name in names:
            (folder / name).unlink()

    return spoil


def several_crops(folder: Path) -> None:
    path = folder / "clip" / "processor_config.json"
    settings = json.loads(path.read_text())
    settings["image_processor"]["crop_mode"] = "overlap-and-resize-c2"
    path.write_text(json.dumps(settings))


def letterboxed(folder: Path) -> None:
    path = folder / "policy_preprocessor.json"
    path.write_text(path.read_text().replace('"letter_box_transform": false', '"letter_box_transform": true'))


def unlike_cameras(folder: Path) -> None:
    [path] = folder.glob("policy_preprocessor_*.safetensors")
    state = load_file(path)
    state[f"{CAMERAS[0]}.mean"] = state[f"{CAMERAS[0]}.mean"] + 0.1
    save_file(state, path)


CASES = {
    "a preprocessor that is gone": ("groot", without("policy_preprocessor.json"), "groot_n1_7_vlm_encode_v1"),
    "a letterbox of GR00T's": ("groot", letterboxed, "letterboxes images"),
    "files of a processor that are gone": (
        "eo1",
        without("clip/preprocessor_config.json", "clip/processor_config.json"),
        "hf download",
    ),
    "several crops": ("molmoact2", several_crops, "several crops (crop_mode 'overlap-and-resize-c2')"),
    "no statistics": ("multi_task_dit", without("policy_preprocessor.json"), "--image-mean"),
    "statistics that differ": ("multi_task_dit", unlike_cameras, "2 different statistics"),
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_lacking_is_said(case: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    kind, spoil, words = CASES[case]
    with caplog.at_level(logging.WARNING, "spaceclip_plugin"):
        policy = policy_of(kind, tmp_path, spoil)
        with attach_depth_head(policy, head_for(policy)) as attachment:
            assert attachment.preparation.kind == "stretch"
    assert words in caplog.text
    assert "--preparation" in caplog.text


def test_statistics_that_a_user_declares_do(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    policy = policy_of("multi_task_dit", tmp_path, without("policy_preprocessor.json"))
    ImageStatistics.IMAGENET.declare(policy)
    with attach_depth_head(policy, head_for(policy)) as attachment:
        assert attachment.preparation.name.startswith("MultiTaskDiTPolicy.")
        step = DepthProcessorStep(attachment.head, fresh=True)
        grey = attachment.preparation([np.full((48, 64, 3), 128, np.uint8)])
    mean, std = (torch.tensor(values) for values in (ImageStatistics.IMAGENET.mean, ImageStatistics.IMAGENET.std))
    torch.testing.assert_close(grey[0, :, 0, 0], (128 / 255 - mean) / std)
    step.connect(policy)  # which reads the tower below the policy
    assert "was trained on images normalised with" not in caplog.text


def test_where_pixels_lie_is_known_without_statistics(tmp_path: Path) -> None:
    policy = policy_of("multi_task_dit", tmp_path, without("policy_preprocessor.json"))
    geometry = CameraGeometry(policy, [policy])
    geometry.see("top", (60, 80))
    assert geometry.measured("top") == ImageMapping.stretched((60, 80), (60, 80)).cropped(6, 16, (48, 48))


def test_photos_of_another_shape_than_the_cameras_are_stretched_to_it_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    policy = policy_of("wall_x", tmp_path, lambda folder: None)
    with attach_depth_head(policy, head_for(policy)) as attachment:
        preparation = attachment.preparation
    for hw in ((96, 128), (45, 64)):
        preparation([np.zeros((*hw, 3), np.uint8)])
    assert "another shape" not in caplog.text
    for _ in range(2):
        assert tuple(preparation([np.zeros((128, 96, 3), np.uint8)]).shape[2:]) == preparation.image_hw
    assert caplog.text.count("photos of 128x96 (HxW) are of another shape") == 1
