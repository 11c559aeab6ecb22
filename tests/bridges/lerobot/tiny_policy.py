"""What the tests know of a LeRobot policy with small random weights: two cameras, chunks of four actions."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from lerobot.configs.types import FeatureType, PolicyFeature
from torch import nn
from tower_truth import Truth

from spaceclip_plugin.towers.spec import MEAN

CAMERAS = ("observation.images.top", "observation.images.wrist")
VIEWS = ("top", "wrist")
CHUNK = 4
CAMERA_HW = (48, 64)
STATE, ACTIONS, WIDTH, BLOCKS = 6, 6, 32, 4

Batch = dict[str, Any]


@dataclass(frozen=True)
class TinyPolicy:
    """A policy, where its tower is, and what one chunk of actions should leave behind.

    Attributes:
        build: makes the policy, given the name of a dtype and options of its config.
        batch: one observation of so many robots.
        calls: image calls per chunk, one frame each.
        images: images in each call, per robot.
        grid_hw: patches of every image.
        image_hw: pixels of every image, as the tower sees it.
        views: camera of each call, None where one call holds several.
        truth: the tower's hidden states, from the arguments of a call of the module at `truth_at` below the tower.
        tower_is_called: False where the host runs the tower's parts itself.
        fills_missing: whether a camera absent from the batch reaches the tower, as a constant image after the others.
        dtypes: what it runs in.
        predicts_unprepared: whether `predict_action_chunk` takes a batch as it is, without `select_action` before it.
    """

    name: str
    build: Callable[..., nn.Module]
    batch: Callable[[int], Batch]
    adapter: str
    path: str
    calls: int
    images: int
    grid_hw: tuple[int, int]
    image_hw: tuple[int, int]
    views: tuple[str | None, ...]
    truth: Truth
    truth_at: str = ""
    context: str = MEAN
    tower_is_called: bool = True
    fills_missing: bool = False
    dtypes: tuple[str, ...] = ("float32", "bfloat16")
    predicts_unprepared: bool = True

    def seeded(self, dtype: str = "float32", **options: Any) -> Any:
        """The policy with the same weights at every call, in eval mode."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            policy = self.build(dtype, **options)
            for name, parameter in policy.named_parameters():
                # What starts at zero hides what comes before it: actions that are noise alone, patches without place.
                if "position" in name or (parameter.ndim > 1 and not parameter.any()):
                    nn.init.normal_(parameter, std=0.3)
        return policy.eval()


def features() -> dict[str, Any]:
    """Inputs, outputs and chunk of every tiny policy, as keyword arguments of its config."""
    images = {camera: PolicyFeature(type=FeatureType.VISUAL, shape=(3, *CAMERA_HW)) for camera in CAMERAS}
    return {
        "input_features": {**images, "observation.state": PolicyFeature(type=FeatureType.STATE, shape=(STATE,))},
        "output_features": {"action": PolicyFeature(type=FeatureType.ACTION, shape=(ACTIONS,))},
        "device": "cpu",
        "n_action_steps": CHUNK,
    }


def observation(robots: int) -> Batch:
    """Both cameras, the state and a tokenised instruction, as LeRobot's preprocessors hand them over."""
    generator = torch.Generator().manual_seed(robots)
    batch: Batch = {camera: torch.rand(robots, 3, *CAMERA_HW, generator=generator) for camera in CAMERAS}
    batch["observation.state"] = torch.randn(robots, STATE, generator=generator)
    batch["observation.language.tokens"] = torch.randint(6, 40, (robots, 8), generator=generator)
    batch["observation.language.attention_mask"] = torch.ones(robots, 8, dtype=torch.bool)
    return batch


def policy_parts(kind: str, policy: str, config: str) -> tuple[Any, Any, Any]:
    """The modelling module of a policy kind, its policy class and its config class."""
    modeling = importlib.import_module(f"lerobot.policies.{kind}.modeling_{kind}")
    configuration = importlib.import_module(f"lerobot.policies.{kind}.configuration_{kind}")
    return modeling, getattr(modeling, policy), getattr(configuration, config)
