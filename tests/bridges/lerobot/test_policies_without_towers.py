"""Policies whose vision is a convolutional network are told plainly that it is no transformer."""

from __future__ import annotations

import gc
import importlib.util
import warnings
from typing import Any

import pytest

from spaceclip_plugin import attach_depth_head
from spaceclip_plugin.errors import HostError, TowerNotFoundError

pytest.importorskip("lerobot.policies", reason="needs lerobot, in an environment of its own: make test-lerobot")

from lerobot.configs.types import FeatureType, PolicyFeature
from row_policies import SMOLVLA
from step_world import head_for, images_of
from tiny_policy import features, observation, policy_parts

from spaceclip_plugin.bridges.lerobot import DepthProcessorStep

_RESNET = {"pretrained_backbone_weights": None}
POLICIES: dict[str, tuple[str, str, dict[str, Any], str]] = {
    "act": ("ACTPolicy", "ACTConfig", {**_RESNET, "dim_model": 32, "n_heads": 4, "chunk_size": 4}, "resnet.BasicBlock"),
    "diffusion": ("DiffusionPolicy", "DiffusionConfig", {**_RESNET, "down_dims": (16, 32)}, "DiffusionRgbEncoder"),
    "vqbet": ("VQBeTPolicy", "VQBeTConfig", {**_RESNET, "crop_shape": (40, 40), "gpt_n_layer": 1}, "VQBeTRgbEncoder"),
    "tdmpc": ("TDMPCPolicy", "TDMPCConfig", {}, "TDMPCObservationEncoder"),
}


def built(kind: str) -> Any:
    policy, config, options, _ = POLICIES[kind]
    if importlib.util.find_spec(f"lerobot.policies.{kind}") is None:
        pytest.skip(f"the installed lerobot has no {kind}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # lerobot 0.4's VQ-BeT decorates in an older way of torch
            _, policy_class, config_class = policy_parts(kind, policy, config)
    except ImportError as error:
        pytest.skip(f"{kind} needs more than is installed: {error}")
    given = features()
    if kind in ("vqbet", "tdmpc"):
        del given["n_action_steps"], given["input_features"]["observation.images.wrist"]
    if kind == "tdmpc":  # square images alone
        given["input_features"]["observation.images.top"] = PolicyFeature(FeatureType.VISUAL, (3, 64, 64))
    if kind == "diffusion":
        given["n_action_steps"] = 2
    return policy_class(config_class(**given, **options))


@pytest.mark.parametrize("kind", POLICIES)
def test_told_plainly(kind: str) -> None:
    policy = built(kind)
    with pytest.raises(TowerNotFoundError) as told:
        attach_depth_head(policy)
    for word in (type(policy).__name__, "convolutional network", POLICIES[kind][3], "no adapter can help"):
        assert word in str(told.value)


def test_the_steps_say_so_where_they_look_for_a_policy() -> None:
    head = head_for(SMOLVLA.seeded())
    gc.collect()
    policy = built("act")
    step = DepthProcessorStep(head)
    with pytest.raises(HostError, match=r"alive: ACTPolicy.*convolutional network"):
        step.observation(images_of(observation(1)))
    with pytest.raises(TowerNotFoundError, match="convolutional network"):
        step.connect(policy)
