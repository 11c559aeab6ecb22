"""The step that gives the point of a pixel, or of the nearest surface, as a feature of the state."""

from __future__ import annotations

from typing import Any

import pytest
import torch

pytest.importorskip("lerobot.processor", reason="needs lerobot: make test-lerobot")

from lerobot.configs.types import FeatureType, PipelineFeatureType, PolicyFeature
from lerobot.processor import ProcessorStepRegistry
from lerobot.processor.pipeline import PolicyProcessorPipeline

from spaceclip_plugin.bridges.lerobot import DepthPointStep
from spaceclip_plugin.depth import Intrinsics
from spaceclip_plugin.errors import ConfigError, HostError

FRONT = "observation.images.front"
POINT = "observation.depth_point.front"
CAMERA = Intrinsics(50.0, 40.0, 32.0, 24.0, (48, 64))


def step(at: Any = "nearest", **settings: Any) -> DepthPointStep:
    return DepthPointStep("front", at=at, **{"intrinsics": CAMERA, **settings})


def scene() -> torch.Tensor:
    """(2, 1, 48, 64) metres: a wall at 3 m, and before the first camera a box at 1 m."""
    depth = torch.full((2, 1, 48, 64), 3.0)
    depth[0, 0, 10:20, 40:50] = 1.0
    return depth


def test_a_pixel_lies_where_its_ray_and_depth_say() -> None:
    seen = step((15.0, 45.0)).observation({f"{FRONT}_depth": scene()})[POINT]
    torch.testing.assert_close(seen[0], torch.tensor([13 / 50, -9 / 40, 1.0, 1.0, -1.0]))
    torch.testing.assert_close(seen[1], torch.tensor([3 * 13 / 50, 3 * -9 / 40, 3.0, 1.0, -1.0]))


def test_depth_of_another_size_is_of_the_same_rays() -> None:
    depth = torch.nn.functional.interpolate(scene(), scale_factor=2, mode="nearest")
    seen = step((15.0, 45.0)).observation({f"{FRONT}_depth": depth})[POINT]
    torch.testing.assert_close(seen[0, :3], torch.tensor([13 / 50, -9 / 40, 1.0]))


def test_the_nearest_surface_is_found_and_a_wrong_pixel_is_none() -> None:
    depth = scene()
    depth[0, 0, 0, 0] = depth[0, 0, 47, 3] = 0.05
    x, y, z, known, _ = step().observation({f"{FRONT}_depth": depth})[POINT][0].tolist()
    assert (z, known) == (1.0, 1.0)
    assert 8 / 50 <= x <= 18 / 50
    assert -14 / 40 <= y <= -4 / 40


def test_a_region_leaves_out_the_rest() -> None:
    seen = step(region=(0.5, 0.0, 1.0, 1.0)).observation({f"{FRONT}_depth": scene()})[POINT]
    assert seen[0, 2] == 3.0
    assert seen[0, 1] >= 0


def test_the_deviation_of_its_depth_comes_along() -> None:
    given = {f"{FRONT}_depth": scene(), f"{FRONT}_depth_uncertainty": scene() / 10}
    assert step().observation(given)[POINT][:, 4].tolist() == pytest.approx([0.1, 0.3])
    assert step((15.0, 45.0)).observation(given)[POINT][:, 4].tolist() == pytest.approx([0.1, 0.3])


@pytest.mark.parametrize("at", ["nearest", (15.0, 45.0)])
def test_without_depth_the_point_is_not_known(at: Any) -> None:
    depth = torch.zeros(1, 1, 48, 64)
    depth[0, 0, 0, 0] = float("nan")
    assert step(at).observation({f"{FRONT}_depth": depth})[POINT].tolist() == [[0.0, 0.0, 0.0, 0.0, -1.0]]


def test_millimetres_are_read_where_that_is_said() -> None:
    in_mm = step(unit="mm").observation({f"{FRONT}_depth": scene() * 1000})[POINT]
    torch.testing.assert_close(in_mm, step().observation({f"{FRONT}_depth": scene()})[POINT])


def test_the_state_is_longer_where_that_is_said() -> None:
    given = {f"{FRONT}_depth": scene(), "observation.state": torch.ones(2, 3)}
    longer = step(key="observation.state").observation(dict(given))["observation.state"]
    assert longer.shape == (2, 8)
    assert longer[0, :3].tolist() == [1.0] * 3
    assert longer[0, 5] == 1.0
    with pytest.raises(HostError, match=r"expected a state \(B, N\) of 2 robot"):
        step(key="observation.state").observation({f"{FRONT}_depth": scene()})


def test_policies_are_trained_on_several_times() -> None:
    given = {
        f"{FRONT}_depth": scene(),
        f"{FRONT}_depth_uncertainty": scene() / 10,
        "observation.state": torch.ones(2, 3),
    }
    times = {name: value[:, None] for name, value in given.items()}
    for key in (POINT, "observation.state"):
        one, other = (step(key=key).observation(dict(each))[key] for each in (given, times))
        assert other.shape == (2, 1, one.shape[-1])
        assert torch.equal(other[:, 0], one)


def test_features_are_announced() -> None:
    state = PolicyFeature(type=FeatureType.STATE, shape=(3,))
    features = {PipelineFeatureType.OBSERVATION: {"observation.state": state}, PipelineFeatureType.ACTION: {}}
    own = step().transform_features(features)[PipelineFeatureType.OBSERVATION]
    assert own == {"observation.state": state, POINT: PolicyFeature(type=FeatureType.STATE, shape=(5,))}
    longer = step(key="observation.state").transform_features(features)[PipelineFeatureType.OBSERVATION]
    assert longer["observation.state"].shape == (8,)
    assert features[PipelineFeatureType.OBSERVATION] == {"observation.state": state}


def test_it_travels_with_its_pipeline(tmp_path: Any) -> None:
    made = step((15.0, 45.0), key="observation.target", unit="mm")
    PolicyProcessorPipeline(steps=[made], name="points").save_pretrained(tmp_path, config_filename="points.json")
    back = PolicyProcessorPipeline.from_pretrained(tmp_path, config_filename="points.json").steps[0]
    assert ProcessorStepRegistry.get("spaceclip_depth_point") is DepthPointStep
    assert back.get_config() == made.get_config()
    assert back.observation({f"{FRONT}_depth": scene() * 1000})["observation.target"][0, 2] == 1.0


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"at": "farthest"}, "at must be one of"),
        ({"at": (48.0, 0.0)}, "lies outside an image of 48x64"),
        ({"at": (1.0,)}, "at, a pixel"),
        ({"region": (0.5, 0.0, 0.5, 1.0)}, "each below its end"),
        ({"key": "action"}, "starts with 'observation.'"),
        ({"unit": "cm"}, "unit must be one of"),
        ({"intrinsics": [50.0, 40.0]}, "intrinsics of camera 'front'"),
        ({"intrinsics": None}, "intrinsics of camera 'front'"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: Any, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        step(**settings)


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({}, r"expected depth \(B, 1, H, W\) under observation.images.front_depth"),
        ({f"{FRONT}_depth": torch.ones(1, 3, 48, 64)}, r"got \(1, 3, 48, 64\)"),
        ({f"{FRONT}_depth": torch.ones(1, 1, 64, 64)}, r"is \(64, 64\) \(H, W\), the intrinsics are of"),
        (
            {f"{FRONT}_depth": torch.ones(1, 1, 48, 64), f"{FRONT}_depth_lens_known": torch.tensor([False])},
            "in metres of the camera that the head assumes",
        ),
    ],
)
def test_depth_that_cannot_be_used_is_refused(given: Any, named: str) -> None:
    with pytest.raises(HostError, match=named):
        step().observation(given)
