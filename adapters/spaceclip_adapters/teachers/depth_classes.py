"""What the numbers of transformers' depth estimators mean, class by class: metres or not, of which range, whose camera.

| model_type | gives | what is done with a known focal length |
|---|---|---|
| `depth_anything` | `depth_estimation_type` says: metres up to `max_depth`, or inverse depth | see below |
| `zoedepth` | metres, between the ends of its bins | see below |
| `glpn` | metres up to `max_depth` | see below |
| `tipsv2_dpt` | metres, between `min_depth` and `max_depth` | see below |
| `depth_pro` | inverse depth of a camera whose focal length is its image's width | its metres are those of the camera; without one, its own field of view is believed |
| `dpt` | inverse depth (MiDaS), whatever its checkpoint | none |
| `chmv2`, `prompt_depth_anything` | heights of trees from above; needs a depth map as prompt | refused |

Those that take no focal length give metres as if every photo were taken by the camera of their training data. Where that
camera is known, metres are scaled by the ratio of both focal lengths, in pixels of the image that the model sees: what
looks as large through a lens twice as long is twice as far (Yin et al., "Metric3D", 2023, section 3.2). It is known for
checkpoints that their authors fine-tuned on data of one camera, and for no others: `TRAINING_CAMERAS`.
"""  # noqa: E501 - a table

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from spaceclip_plugin.depth import Intrinsics
from spaceclip_plugin.errors import TeacherError
from spaceclip_plugin.teaching.teacher import INVERSE, METRES

DEPTH_PRO = "depth_pro"
ZOE = "zoedepth"


@dataclass(frozen=True)
class TrainingCamera:
    """The one camera of a teacher's training data."""

    data: str
    lens: Intrinsics

    @classmethod
    def of(cls, data: str, focal_px: float, image_hw: tuple[int, int]) -> TrainingCamera:
        """Of square pixels, seen from the middle."""
        height, width = image_hw
        return cls(data, Intrinsics(focal_px, focal_px, width / 2, height / 2, image_hw))


_HYPERSIM = TrainingCamera.of("Hypersim", 886.81, (768, 1024))
_VKITTI = TrainingCamera.of("Virtual KITTI 2", 725.0087, (375, 1242))
_NYU = TrainingCamera.of("NYU Depth V2", 518.86, (480, 640))
_KITTI = TrainingCamera.of("KITTI", 721.54, (375, 1242))

TRAINING_CAMERAS: dict[str, TrainingCamera] = {
    r"depth-anything/Depth-Anything-V2-Metric-Indoor-\w+-hf": _HYPERSIM,
    r"depth-anything/Depth-Anything-V2-Metric-Outdoor-\w+-hf": _VKITTI,
    "vinvino02/glpn-nyu": _NYU,
    "vinvino02/glpn-kitti": _KITTI,
    "Intel/zoedepth-nyu": _NYU,
    "Intel/zoedepth-kitti": _KITTI,
}
"""By ids on the Hub, as patterns."""


@dataclass(frozen=True)
class Meaning:
    """What a model gives."""

    gives: str
    range_m: tuple[float, float] | None


def meaning_of(name: str, config: Any) -> Meaning:
    """What the model of a config gives; TeacherError where it is no teacher, or says nothing clear."""
    kind = str(getattr(config, "model_type", ""))
    if kind not in _KINDS:
        known = ", ".join(sorted(_KINDS))
        raise TeacherError(
            f"{name!r} is a model of the type {kind!r}, and what its depth means is not known here; known are {known}. "
            "Another model is a teacher of its own: see `spaceclip_plugin.teaching.DepthTeacher`"
        )
    return _KINDS[kind](name, config)


def training_camera(name: str) -> TrainingCamera | None:
    """The camera that a published checkpoint takes every photo to be of; None where it is not known to be one."""
    return next((camera for pattern, camera in TRAINING_CAMERAS.items() if re.fullmatch(pattern, name)), None)


def _depth_anything(name: str, config: Any) -> Meaning:
    kind = getattr(config, "depth_estimation_type", "relative")
    if kind == "relative":
        return Meaning(INVERSE, None)
    if kind != "metric":
        raise TeacherError(f"{name!r} says depth_estimation_type {kind!r}, expected 'metric' or 'relative'")
    if "depth_estimation_type" not in inspect.signature(type(config)).parameters:  # it would give relative depth
        raise TeacherError(
            f"{name!r} gives metres, and the Depth Anything of the installed transformers knows relative depth alone; "
            "install a newer transformers"
        )
    return Meaning(METRES, (0.0, _metres(name, config, "max_depth")))


def _up_to_max_depth(name: str, config: Any) -> Meaning:
    return Meaning(METRES, (float(getattr(config, "min_depth", 0.0)), _metres(name, config, "max_depth")))


def _zoe(name: str, config: Any) -> Meaning:
    bins = getattr(config, "bin_configurations", None) or []
    ends = [(float(one["min_depth"]), float(one["max_depth"])) for one in bins]
    if not ends:
        raise TeacherError(f"{name!r} says no bin_configurations, and so not which metres it gives")
    return Meaning(METRES, (min(low for low, _ in ends), max(high for _, high in ends)))


def _metres(name: str, config: Any, key: str) -> float:
    value = getattr(config, key, None)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e6:
        raise TeacherError(f"{name!r} says {key} {value!r}, expected metres; check its config.json")
    return float(value)


_KINDS: dict[str, Callable[[str, Any], Meaning]] = {
    "depth_anything": _depth_anything,
    ZOE: _zoe,
    "glpn": _up_to_max_depth,
    "tipsv2_dpt": _up_to_max_depth,
    DEPTH_PRO: lambda name, config: Meaning(METRES, None),
    "dpt": lambda name, config: Meaning(INVERSE, None),
}
