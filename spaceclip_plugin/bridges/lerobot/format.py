"""How LeRobot (0.6 and newer) keeps the photos and depth of a frame, and what they mean in metres.

In a depth video, what lay outside its range, unknown depth included, sits on an end (`lerobot.datasets.depth_utils`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from spaceclip_plugin.data.files.depth_values import BEYOND_M, SATURATED_16
from spaceclip_plugin.errors import DataError, nearest

DEPTH_SUFFIX = "_depth"
PREDICTED_BY = "spaceclip_predicted_by"
"""In the `info` of a feature of depth that a head predicted: the digest of that head."""

PREFIX = "observation.images."
_UNITS_PER_METRE = {"m": 1.0, "mm": 1000.0}
_SATURATED_M = SATURATED_16 / _UNITS_PER_METRE["mm"]
_STEPS = 4095
_DEPTH_MIN_M, _DEPTH_MAX_M, SHIFT_M = 0.01, 10.0, 3.5
_HOW_TO_OPEN = "open the data set without delta_timestamps and image_transforms"

LeRobotFrames = Any
"""A `LeRobotDataset`: of it `repo_id`, `features`, `depth_output_unit`, its length and its frames are used."""


@dataclass(frozen=True)
class DepthFeature:
    """How one depth feature is read."""

    key: str
    units_per_metre: float  # of what the data set returns, whatever it stores
    known_m: tuple[float, float]  # depth is known strictly between these metres

    @classmethod
    def of(cls, dataset: LeRobotFrames, key: str) -> DepthFeature:
        """From what the data set says about feature `key`; DataError where its unit is not known."""
        info: Mapping[str, Any] = dataset.features[key].get("info") or {}
        unit = dataset.depth_output_unit
        if unit not in _UNITS_PER_METRE:
            raise DataError(f"{dataset.repo_id}: depth is returned in {unit!r}, expected 'm' or 'mm'")
        if dataset.features[key].get("dtype") == "video":
            # Millimetres come rounded, which hides by up to half of one on which side of a border a value was.
            return cls(key, _UNITS_PER_METRE[unit], _between_ends(info, rounding_m=0.0005 if unit == "mm" else 0.0))
        if info.get("depth_unit") not in _UNITS_PER_METRE:
            # Such depth is returned as it was stored, whatever unit was asked for.
            raise DataError(
                f"{dataset.repo_id}: {key} does not say its unit; "
                'add "depth_unit": "mm" or "m" to the info of that feature in meta/info.json'
            )
        # Half a millimetre below the value that 16 bits saturate at; floats are cut as those of files are.
        beyond_m = _SATURATED_M - 0.0005 if info["depth_unit"] == "mm" else BEYOND_M
        return cls(key, _UNITS_PER_METRE[unit], (0.0, beyond_m))

    def metres(self, item: Mapping[str, Any], where: str) -> npt.NDArray[np.float32]:
        """(H, W) float32 metres of a frame, 0 where unknown; DataError, naming `where`, where it has no single one."""
        depth_m = _one(item, self.key, 1, where)[0].numpy().astype(np.float32) / np.float32(self.units_per_metre)
        low_m, high_m = self.known_m
        known = (depth_m > low_m) & (depth_m < high_m)  # false for NaN, and for infinity
        masked: npt.NDArray[np.float32] = np.where(known, depth_m, np.float32(0))
        return masked


def rgb(item: Mapping[str, Any], key: str, where: str) -> npt.NDArray[np.uint8]:
    """(H, W, 3) uint8 RGB of a frame, which holds it as (3, H, W), either uint8 or floats from 0 to 1."""
    values = _one(item, key, 3, where)
    if values.dtype != torch.uint8:
        if not bool(((values >= 0) & (values <= 1)).all()):
            raise DataError(f"{where}: expected a photo with values from 0 to 1, got others; {_HOW_TO_OPEN}")
        values = (values * 255).round().to(torch.uint8)
    return np.ascontiguousarray(values.permute(1, 2, 0).numpy())


def camera_key(dataset: LeRobotFrames, named: str | None, *, need_depth: bool = True) -> str:
    """The key of the photos of the camera of that name, or of the only one, with depth under `KEY_depth`.

    Where none is needed, of any camera; that with depth is meant where it alone has some.
    """
    keys = [key for key in dataset.features if has_depth(dataset, key)]
    if not need_depth and (named is not None or not keys):
        keys = [key for key, feature in dataset.features.items() if _is_photo(feature)]
        return _only(keys, named, dataset, "photos")
    if not keys:
        raise DataError(
            f"{dataset.repo_id}: expected depth of a camera under '{PREFIX}CAMERA{DEPTH_SUFFIX}' (is_depth_map) "
            f"beside its photos '{PREFIX}CAMERA'; the features are {', '.join(dataset.features)}"
        )
    return _only(keys, named, dataset, "depth")


def has_depth(dataset: LeRobotFrames, key: str) -> bool:
    """Whether there is depth beside the photos of that key."""
    return _is_depth(dataset.features.get(key + DEPTH_SUFFIX, {}))


def _only(keys: Sequence[str], named: str | None, dataset: LeRobotFrames, what: str) -> str:
    """The key of that name, or the only one."""
    cameras = {key.removeprefix(PREFIX): key for key in keys}
    place, known = dataset.repo_id, ", ".join(cameras)
    if not cameras:
        features = ", ".join(dataset.features)
        raise DataError(f"{place}: expected {what} of a camera; the features are {features}")
    if named is None and len(cameras) > 1:
        raise DataError(f"{place}: {len(cameras)} cameras have {what}; choose one with camera: {known}")
    name = next(iter(cameras)) if named is None else named.removeprefix(PREFIX)
    if name not in cameras:
        raise DataError(f"{place}: no camera {named!r} with {what}{nearest(name, cameras)}; known: {known}")
    return cameras[name]


def _is_photo(feature: Mapping[str, Any]) -> bool:
    return feature.get("dtype") in ("image", "video") and not _is_depth(feature)


def check_measured(dataset: LeRobotFrames, key: str) -> None:
    """DataError where the depth under a key is what a head predicted: to learn from it is to learn its errors."""
    head = (dataset.features[key].get("info") or {}).get(PREDICTED_BY)
    if head is not None:
        raise DataError(
            f"{dataset.repo_id}: {key} is not measured, a head predicted it (sha256 {head}), and training or scoring "
            "on it would take that head's errors for the truth; choose a camera with measured depth, or say "
            "depth: predicted if that is what you want"
        )


def _is_depth(feature: Mapping[str, Any]) -> bool:
    info: Mapping[str, Any] = feature.get("info") or {}
    return bool(info.get("is_depth_map") or info.get("video.is_depth_map"))  # the latter is the older spelling


def end_steps_m(low_m: float, high_m: float, shift_m: float | None) -> tuple[float, float]:
    """How wide the first and the last step of a depth video are, in metres; its steps are equal without a shift."""
    if shift_m is None:
        return (high_m - low_m) / _STEPS, (high_m - low_m) / _STEPS
    growth = math.log((high_m + shift_m) / (low_m + shift_m)) / _STEPS
    return (low_m + shift_m) * math.expm1(growth), (high_m + shift_m) * -math.expm1(-growth)


def _between_ends(info: Mapping[str, Any], *, rounding_m: float) -> tuple[float, float]:
    """The metres that lie between the first and the last step of a depth video."""
    low_m, high_m = float(info.get("video.depth_min", _DEPTH_MIN_M)), float(info.get("video.depth_max", _DEPTH_MAX_M))
    shift_m = float(info.get("video.shift", SHIFT_M)) if info.get("video.use_log", True) else None
    first_m, last_m = end_steps_m(low_m, high_m, shift_m)
    # Half a step from either end, so that rounding errors decide nothing.
    return low_m + max(first_m / 2, rounding_m), high_m - max(last_m / 2, rounding_m)


def _one(item: Mapping[str, Any], key: str, channels: int, where: str) -> Tensor:
    """The (C, H, W) of a frame under a key."""
    values = item[key]
    if isinstance(values, Tensor) and values.ndim == 3 and values.shape[0] == channels:
        return values
    given = str(tuple(values.shape)) if isinstance(values, Tensor) else type(values).__name__
    kind = "depth" if channels == 1 else "a photo"
    raise DataError(f"{where}: expected {kind} of shape ({channels}, H, W), got {given}; {_HOW_TO_OPEN}")
