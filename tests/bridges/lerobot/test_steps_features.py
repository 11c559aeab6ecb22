"""What the steps announce to a pipeline, and what they leave alone: recorded data, of which policies learn."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

pytest.importorskip("lerobot.policies", reason="needs lerobot, in an environment of its own: make test-lerobot")

from lerobot.configs.types import FeatureType, PipelineFeatureType, PolicyFeature
from lerobot.processor import TransitionKey
from row_policies import SMOLVLA
from small_world import tiny_mixer
from step_world import TOP, WRIST, head_for, images_of
from tiny_policy import observation

from spaceclip_plugin.bridges.lerobot import DepthGuardStep, DepthProcessorStep


@pytest.fixture(scope="module")
def policy() -> Any:
    return SMOLVLA.seeded()


def test_what_is_added_is_announced(policy: Any) -> None:
    head = tiny_mixer(policy, trained_on="noise")
    features = {PipelineFeatureType.OBSERVATION: dict(policy.config.input_features), PipelineFeatureType.ACTION: {}}
    for cameras in (None, ["wrist"]):
        step = DepthProcessorStep(head, cameras=cameras, fresh=True)
        step.connect(policy)
        announced = step.transform_features(features)[PipelineFeatureType.OBSERVATION]
        given = step.observation({**images_of(observation(2)), "observation.state": torch.zeros(2, 6)})
        assert announced.keys() == given.keys()
        assert {key: tuple(feature.shape) for key, feature in announced.items()} == {
            key: tuple(value.shape[1:]) for key, value in given.items()
        }
        assert f"{WRIST}_depth_uncertainty" in given
        assert features[PipelineFeatureType.OBSERVATION] == policy.config.input_features


def test_a_guard_adds_nothing_to_announce(policy: Any) -> None:
    features = {PipelineFeatureType.OBSERVATION: {}, PipelineFeatureType.ACTION: policy.config.output_features}
    step = DepthGuardStep(head_for(policy), actions="velocity")
    assert step.transform_features(copy.deepcopy(features)) == features


def test_placeholders_and_what_is_no_photo_get_none(policy: Any) -> None:
    features = {
        "observation.images.empty_camera_0": PolicyFeature(FeatureType.VISUAL, (3, 48, 64)),
        "observation.images.front_depth": PolicyFeature(FeatureType.VISUAL, (1, 48, 64)),
        "front": (48, 64, 3),  # as a robot's own pipelines have them
        "shoulder.pos": float,
    }
    step = DepthProcessorStep(head_for(policy))
    assert step.transform_features({PipelineFeatureType.OBSERVATION: features}) == {
        PipelineFeatureType.OBSERVATION: features
    }


def test_recorded_actions_are_learnt_and_pass_as_they_are(policy: Any) -> None:
    step = DepthProcessorStep(head_for(policy), fresh=True)
    times = {name: image[:, None] for name, image in images_of(observation(2)).items()}  # as SmolVLA is trained
    recorded = {TransitionKey.OBSERVATION: times, TransitionKey.ACTION: torch.zeros(2, 4, 6)}
    assert step(recorded) is recorded
    assert not policy.get_submodule(SMOLVLA.path)._forward_hooks
    acting = {TransitionKey.OBSERVATION: images_of(observation(2)), TransitionKey.ACTION: None}
    assert f"{TOP}_depth" in step(acting)[TransitionKey.OBSERVATION]
