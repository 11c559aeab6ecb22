"""A point of the scene as a feature of the robot's state: where a pixel lies, or the nearest surface."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from lerobot.configs.types import FeatureType, PipelineFeatureType, PolicyFeature
from lerobot.processor import ObservationProcessorStep, ProcessorStepRegistry
from torch import Tensor

from spaceclip_plugin import _checks
from spaceclip_plugin.attach.declared import checked_cameras
from spaceclip_plugin.bridges.lerobot.format import DEPTH_SUFFIX, PREFIX
from spaceclip_plugin.bridges.lerobot.lenses import as_lists, checked_intrinsics
from spaceclip_plugin.bridges.lerobot.observed import LENS_SUFFIX, UNCERTAINTY_SUFFIX
from spaceclip_plugin.depth import Intrinsics
from spaceclip_plugin.depth.camera import back_project, same_aspect
from spaceclip_plugin.errors import ConfigError, HostError

NEAREST = "nearest"
STATE = "observation.state"
POINT_NAMES = ("x", "y", "z", "known", "uncertainty")

_UNITS_PER_METRE = {"m": 1.0, "mm": 1000.0}
_WHOLE = (0.0, 0.0, 1.0, 1.0)
_NEAREST_SHARE = 0.02  # of the pixels with depth: a single wrong pixel is no surface
_FEWEST = 4
_WINDOW = 2  # pixels to every side of the one that is asked for


@ProcessorStepRegistry.register("spaceclip_depth_point")
class DepthPointStep(ObservationProcessorStep):  # type: ignore[misc]  # lerobot may be absent
    """Adds the 3-D point of a pixel, or of the nearest surface, to the observation.

    It reads `observation.images.CAMERA_depth`, (B, 1, H, W), which `DepthProcessorStep`, a depth camera or a data set
    of `spaceclip annotate` gives, (B, T, 1, H, W) where a policy is trained on several times, and adds (B, 5) or
    (B, T, 5) float32: x right, y down, z forward in metres of the camera's frame,
    whether the point is known (1 or 0; x, y and z are 0 where it is not), and the standard deviation of its depth in
    metres where `observation.images.CAMERA_depth_uncertainty` tells it, else -1. dx, dy, dz from one point to
    another of the same camera are the differences of two such features.

    - A pixel's depth is the median of the 5x5 pixels around it that have depth, so that no hole beside it counts.
    - The nearest surface is looked for in `region`: of the 2 % of its pixels with depth that are nearest to the camera,
      the one next to their median. A few wrong pixels move it by little; fewer than 4 pixels with depth are no surface.

    Under `observation.state` the five numbers follow the state's own; under any other key they are a feature of their
    own. Statistics of a data set without them do not cover a longer state: record with the step, or take another key.

    Example:
        >>> step = DepthPointStep("front", at="nearest", intrinsics=[60.0, 60.0, 32.0, 24.0, 48, 64])
        >>> depth = torch.full((1, 1, 48, 64), 2.0)
        >>> step.observation({"observation.images.front_depth": depth})["observation.depth_point.front"].shape
        torch.Size([1, 5])
    """

    def __init__(
        self,
        camera: str,
        *,
        at: str | Sequence[float],
        intrinsics: Intrinsics | Sequence[float],
        region: Sequence[float] = _WHOLE,
        key: str | None = None,
        unit: str = "m",
    ) -> None:
        """Check the settings.

        Args:
            camera: its name, as in `observation.images.NAME`.
            at: "nearest", or a pixel (row, column) of the image that the intrinsics are of.
            intrinsics: of the camera's own image: `Intrinsics`, or [fx, fy, cx, cy, height, width]. Without them a
                pixel has no place in space.
            region: (top, left, bottom, right) in which the nearest surface is looked for, as fractions of the image.
            key: of the feature; None: `observation.depth_point.CAMERA`.
            unit: of the depth that is read: "m", as the depth step gives it, or "mm", as LeRobot's data sets do where
                nothing else is said.

        Raises:
            ConfigError: an impossible setting, or a pixel outside the image.
        """
        self.camera = checked_cameras([camera])[0]
        self.intrinsics = checked_intrinsics({self.camera: intrinsics})[self.camera]
        height, width = self.intrinsics.image_hw
        if isinstance(at, str):
            self.at: str | tuple[float, ...] = _checks.choice("at", at, (NEAREST,))
        else:
            self.at = _checks.reals("at, a pixel (row, column),", at, 0.0, float(max(height, width)), length=2)
            if self.at[0] >= height or self.at[1] >= width:
                raise ConfigError(f"pixel {self.at} lies outside an image of {height}x{width} (HxW)")
        self.region = _checks.reals("region, (top, left, bottom, right),", region, 0.0, 1.0, length=4)
        if self.region[0] >= self.region[2] or self.region[1] >= self.region[3]:
            raise ConfigError(f"region is (top, left, bottom, right), each below its end, got {self.region}")
        self.key = f"observation.depth_point.{self.camera}" if key is None else _checks.text("key", key)
        if not self.key.startswith("observation."):
            raise ConfigError(f"the key of a feature of the state starts with 'observation.', got {self.key!r}")
        self.unit = _checks.choice("unit", unit, _UNITS_PER_METRE)

    def observation(self, observation: dict[str, Any]) -> dict[str, Any]:
        """The observation with the point.

        Raises:
            HostError: there is no depth of the camera, of another shape than its intrinsics' image, or in metres of
                another camera; or there is no state to add to.
        """
        name = PREFIX + self.camera + DEPTH_SUFFIX
        depth = observation.get(name)
        if not isinstance(depth, Tensor) or depth.ndim not in (4, 5) or depth.shape[-3] != 1:
            given = tuple(depth.shape) if isinstance(depth, Tensor) else type(depth).__name__
            raise HostError(
                f"expected depth (B, 1, H, W) under {name}, got {given}; put this step behind the one that gives "
                "depth, and train policies on a data set that has it (`spaceclip annotate`)"
            )
        hw = (depth.shape[-2], depth.shape[-1])
        if not same_aspect(hw, self.intrinsics.image_hw):
            raise HostError(f"{name} is {hw} (H, W), the intrinsics are of an image of {self.intrinsics.image_hw}")
        depth_m = depth.flatten(0, -4)[:, 0].float() / _UNITS_PER_METRE[self.unit]
        depth_m = depth_m.where(torch.isfinite(depth_m) & (depth_m > 0), torch.zeros_like(depth_m))
        lens = observation.get(PREFIX + self.camera + LENS_SUFFIX)
        if isinstance(lens, Tensor) and bool((~lens.to(depth_m.device) & (depth_m > 0).flatten(1).any(1)).any()):
            raise HostError(
                f"{name} is in metres of the camera that the head assumes, not of this one: give the depth step the "
                f"same intrinsics, intrinsics={{{self.camera!r}: …}}"
            )
        deviation = observation.get(PREFIX + self.camera + UNCERTAINTY_SUFFIX)
        if isinstance(deviation, Tensor):
            deviation_m = deviation.flatten(0, -4)[:, 0].to(depth_m) / _UNITS_PER_METRE[self.unit]
        else:
            deviation_m = torch.full_like(depth_m, -1.0)
        points = torch.stack([self._point(*of_one) for of_one in zip(depth_m, deviation_m, strict=True)])
        points = points.reshape(*depth.shape[:-3], len(POINT_NAMES))
        return {**observation, self.key: self._joined(observation.get(self.key), points)}

    def transform_features(
        self, features: dict[PipelineFeatureType, dict[str, PolicyFeature]]
    ) -> dict[PipelineFeatureType, dict[str, PolicyFeature]]:
        """The features with the point: five numbers of the state."""
        observed = dict(features.get(PipelineFeatureType.OBSERVATION, {}))
        before = observed[STATE].shape[0] if self.key == STATE and STATE in observed else 0
        observed[self.key] = PolicyFeature(type=FeatureType.STATE, shape=(before + len(POINT_NAMES),))
        return {**features, PipelineFeatureType.OBSERVATION: observed}

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments as JSON."""
        return {
            "camera": self.camera,
            "at": self.at if isinstance(self.at, str) else [*self.at],
            "intrinsics": as_lists({self.camera: self.intrinsics})[self.camera],
            "region": [*self.region],
            "key": self.key,
            "unit": self.unit,
        }

    def _joined(self, state: object, points: Tensor) -> Tensor:
        if self.key != STATE:
            return points
        if not isinstance(state, Tensor) or state.shape[:-1] != points.shape[:-1]:
            raise HostError(f"expected a state (B, N) of {len(points)} robot(s) under {STATE} to add the point to")
        return torch.cat([state, points.to(state)], dim=-1)

    def _point(self, depth_m: Tensor, deviation_m: Tensor) -> Tensor:
        """(5,) of one robot's depth (H, W), 0 where unknown, and its standard deviation."""
        height, width = depth_m.shape
        camera = self.intrinsics.resized((height, width))
        if isinstance(self.at, str):
            found = _nearest(depth_m, back_project(depth_m[None], camera)[0], self.region)
            if found is None:
                return _unknown(depth_m)
            row, column, z_m = found
            u, v = column + 0.5, row + 0.5
            pixels = (slice(row, row + 1), slice(column, column + 1))
        else:
            own_height, own_width = self.intrinsics.image_hw
            v, u = self.at[0] * height / own_height, self.at[1] * width / own_width
            pixels = (_around(int(v)), _around(int(u)))
            near = depth_m[pixels]
            if not bool((near > 0).any()):
                return _unknown(depth_m)
            z_m = float(near[near > 0].median())
        x_m, y_m = (u - camera.cx_px) / camera.fx_px * z_m, (v - camera.cy_px) / camera.fy_px * z_m
        sd_m = float(deviation_m[pixels][depth_m[pixels] > 0].median())
        return depth_m.new_tensor([x_m, y_m, z_m, 1.0, sd_m])


def _around(pixel: int) -> slice:
    return slice(max(0, pixel - _WINDOW), pixel + _WINDOW + 1)


def _unknown(like: Tensor) -> Tensor:
    return like.new_tensor([0.0, 0.0, 0.0, 0.0, -1.0])


def _nearest(depth_m: Tensor, points: Tensor, region: Sequence[float]) -> tuple[int, int, float] | None:
    """Row, column and depth of the nearest surface of a region; None where too little of it has depth."""
    height, width = depth_m.shape
    inside = torch.zeros_like(depth_m, dtype=torch.bool)
    top, left, bottom, right = region
    inside[int(top * height) : max(1, round(bottom * height)), int(left * width) : max(1, round(right * width))] = True
    rows, columns = torch.nonzero(inside & (depth_m > 0), as_tuple=True)
    if len(rows) < _FEWEST:
        return None
    found = points[rows, columns]
    count = max(_FEWEST, round(_NEAREST_SHARE * len(rows)))
    nearest = found.norm(dim=-1).topk(count, largest=False).indices
    middle = found[nearest].median(dim=0).values
    chosen = nearest[(found[nearest] - middle).norm(dim=-1).argmin()]
    row, column = int(rows[chosen]), int(columns[chosen])
    return row, column, float(depth_m[row, column])
