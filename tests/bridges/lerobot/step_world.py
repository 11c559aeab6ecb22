"""Pipelines, heads and a loop for the tests of the processor steps."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch
from lerobot.configs.types import FeatureType, NormalizationMode
from lerobot.policies.factory import make_pre_post_processors
from lerobot.processor import (
    AddBatchDimensionProcessorStep,
    DeviceProcessorStep,
    NormalizerProcessorStep,
    PolicyProcessorPipeline,
    UnnormalizerProcessorStep,
)
from lerobot.processor.converters import policy_action_to_transition, transition_to_policy_action
from packed_policies import XVLA
from small_heads import small_head
from tiny_policy import CAMERA_HW, CAMERAS, TinyPolicy
from torch import Tensor

from spaceclip_plugin import DepthHead, DepthMap
from spaceclip_plugin.bridges.lerobot import DepthGuardStep, DepthProcessorStep, add_depth
from spaceclip_plugin.depth.image_mapping import ImageMapping
from spaceclip_plugin.guard import DepthGuard, GuardLimits

LENIENT = DepthGuard(GuardLimits(stop_below_m=0.0, slow_below_m=0.0, max_age=1000, frozen_after=None))
"""Lets everything pass that has depth."""

TOP, WRIST = CAMERAS
LONG = 50
"""Actions of a long chunk, as SmolVLA's are."""


def head_for(policy: Any, *, seed: int = 3, trained: bool = True, **options: Any) -> DepthHead:
    """A small head with random weights, which says that it was trained."""
    return small_head(policy, seed=seed, trained_on="noise" if trained else None, **options)


def padding_of(tiny: TinyPolicy, camera_hw: tuple[int, int] = CAMERA_HW) -> ImageMapping:
    """How that policy lays 3:4 images in its square: pi0 in the middle, SmolVLA and X-VLA at the bottom."""
    anchor = "centre" if tiny.name.startswith("pi0") else "bottom-right"
    return ImageMapping.letterboxed(camera_hw, tiny.image_hw, anchor=anchor)


def known_m(depth: DepthMap) -> Tensor:
    """(B, H, W) metres, 0 where there is none: as a batch holds depth."""
    return depth.depth_m * depth.valid


def guard(**settings: Any) -> DepthGuard:
    return DepthGuard(dataclasses.replace(LENIENT.limits, **settings))


def add_both(preprocessor: Any, postprocessor: Any, head: DepthHead, **options: Any) -> None:
    """Both steps with that head, of velocities; options of either step."""
    of_guard = {name: options.pop(name) for name in ("guard", "stop_action") if name in options}
    policy = options.pop("policy", None)
    depth = DepthProcessorStep(head, **options)
    last = DepthGuardStep(head, actions="velocity", **of_guard)
    add_depth(preprocessor, postprocessor, depth, last, policy=policy)


def pipelines(policy: Any) -> tuple[Any, Any]:
    """As LeRobot's factories make them, without the tokenizer: the batches of these tests hold tokens already."""
    config = policy.config
    modes = {FeatureType.STATE: NormalizationMode.MEAN_STD, FeatureType.ACTION: NormalizationMode.MEAN_STD}
    stats = {name: {"mean": torch.zeros(6), "std": torch.full((6,), 2.0)} for name in ("observation.state", "action")}
    both = {"norm_map": {**modes, FeatureType.VISUAL: NormalizationMode.IDENTITY}, "stats": stats}
    inputs = {**config.input_features, **config.output_features}
    before = [
        AddBatchDimensionProcessorStep(),
        DeviceProcessorStep(device="cpu"),
        NormalizerProcessorStep(features=inputs, **both),
    ]
    behind = [UnnormalizerProcessorStep(features=config.output_features, **both), DeviceProcessorStep(device="cpu")]
    return (
        PolicyProcessorPipeline(steps=before, name="policy_preprocessor"),
        PolicyProcessorPipeline(
            steps=behind,
            name="policy_postprocessor",
            to_transition=policy_action_to_transition,
            to_output=transition_to_policy_action,
        ),
    )


def loaded(policy: Any, folder: Any, **overrides: Any) -> tuple[Any, Any]:
    return make_pre_post_processors(policy.config, pretrained_path=str(folder), **overrides)


def act(policy: Any, batch: dict[str, Any]) -> Tensor:
    """The next action, from the same noise at every call."""
    with torch.random.fork_rng(devices=[]), torch.inference_mode():
        torch.manual_seed(5)
        return policy.select_action(dict(batch))


def images_of(batch: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in batch.items() if name.startswith("observation.images")}


def shown(tiny: TinyPolicy, photo: np.ndarray) -> dict[str, Any]:
    """A batch with the photo in every camera, as the policy's preprocessor leaves it."""
    image = torch.from_numpy(photo).permute(2, 0, 1)[None] / 255
    if tiny is XVLA:  # whose preprocessor has a step for it
        mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
        image = (image - mean[:, None, None]) / std[:, None, None]
    return {**tiny.batch(1), **dict.fromkeys(CAMERAS, image)}


def long_chunks(policy: Any, *, steps: Any = LONG, **settings: Any) -> Any:
    """The policy, as if it had been made with chunks of that length."""
    for name, value in {"n_action_steps": steps, "chunk_size": LONG, **settings}.items():
        setattr(policy.config, name, value)
    return policy
