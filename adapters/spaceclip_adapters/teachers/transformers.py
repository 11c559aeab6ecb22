"""Teachers of transformers by Hub id or local folder: `AutoModelForDepthEstimation` with its own image processor.

What the numbers of each class mean, and what becomes of a known focal length, stands in `depth_classes.py`.
"""

from __future__ import annotations

import functools
import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn.functional import interpolate

from spaceclip_adapters.hosts.hub_files import fetch
from spaceclip_adapters.hosts.weights import few, first_line, frozen
from spaceclip_adapters.teachers.depth_classes import DEPTH_PRO, ZOE, TrainingCamera, meaning_of, training_camera
from spaceclip_adapters.teachers.license import stated_license
from spaceclip_plugin._digest import module_digest, sha256_of
from spaceclip_plugin.depth import Intrinsics
from spaceclip_plugin.errors import HostError, TeacherError
from spaceclip_plugin.teaching.teacher import INVERSE, TeacherCard

_REMEDIES = (
    "Download it beforehand (`huggingface_hub.snapshot_download({name!r})`) or give a local folder of config.json, "
    "preprocessor_config.json and safetensors weights."
)
_LEAST_INVERSE, _MOST_INVERSE = 1e-4, 1e4  # as Depth Pro's own code bounds it
_END = 0.99
_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+", re.ASCII)


def load_hf_teacher(name: str, *, device: torch.device) -> TransformersTeacher:
    """The depth estimator of a Hub id or local folder, with its own weights, frozen.

    Raises:
        TeacherError: it cannot be had, has no safetensors weights, needs code of its own, is not whole, or no teacher.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        _check_folder(folder)
        name, commit = str(folder), None
    else:
        commit = _commit(name)
    config = _loaded(lambda auto, own: auto.AutoConfig.from_pretrained(name, **own), name, commit)
    meaning = meaning_of(name, config)
    model = _model(name, commit)
    processor = _loaded(lambda auto, own: auto.AutoImageProcessor.from_pretrained(name, **own), name, commit)
    kind = str(config.model_type)
    if kind != ZOE and getattr(processor, "do_pad", False):
        raise TeacherError(f"{name!r} pads photos in a way that is not understood here (do_pad); write do_pad: false")
    camera = training_camera(name)
    says = json.dumps(processor.to_dict(), sort_keys=True, default=str)
    card = TeacherCard(
        name=f"hf:{folder.name if folder.is_dir() else name}",
        gives=meaning.gives,
        weights=sha256_of(module_digest(model), says, kind),
        lens=_lens_in_words(kind, meaning.gives, camera),
        range_m=meaning.range_m,
        revision=commit,
        license=stated_license(name, commit=commit),
    )
    return TransformersTeacher(card, frozen(model).to(device), processor, kind, camera)


@dataclass(frozen=True, eq=False)
class TransformersTeacher:
    """A `DepthTeacher`; see `depth_classes.py`."""

    card: TeacherCard
    model: nn.Module
    processor: Any
    kind: str
    camera: TrainingCamera | None  # of its training data; None: not known

    @torch.no_grad()
    def depth(self, photos: npt.NDArray[np.uint8], intrinsics: Sequence[Intrinsics | None]) -> npt.NDArray[np.float32]:
        """(N, H, W) float32 at the photos' size; see `DepthTeacher`."""
        hw = (photos.shape[1], photos.shape[2])
        parameter = next(self.model.parameters())
        given = self.processor(images=list(photos), return_tensors="pt")["pixel_values"]
        seen = given.to(parameter)
        told = self.model(pixel_values=seen)
        depth = self._at(told.predicted_depth.float(), hw)
        if self.card.range_m is not None:  # what lies beyond its range sits on the end of it
            depth[depth > _END * self.card.range_m[1]] = 0.0
        seen_hw = (int(seen.shape[-2]), int(seen.shape[-1]))
        for row, camera in enumerate(intrinsics):
            depth[row] = self._of_camera(depth[row], camera, seen_hw, getattr(told, "field_of_view", None), row)
        depth_m: npt.NDArray[np.float32] = depth.clamp_min(0.0).cpu().numpy()
        return depth_m

    def _at(self, depth: Tensor, hw: tuple[int, int]) -> Tensor:
        """The model's map, (N, h, w), at the photos' size. Bilinear: cubic steps overshoot where objects end."""
        rows, columns = _padding(hw) if self._pads else (0, 0)
        whole = (hw[0] + 2 * rows, hw[1] + 2 * columns)
        resized = interpolate(depth[:, None], size=whole, mode="bilinear", align_corners=False)[:, 0]
        return resized[:, rows : rows + hw[0], columns : columns + hw[1]].contiguous()

    def _of_camera(
        self, depth: Tensor, camera: Intrinsics | None, seen_hw: tuple[int, int], fields: Tensor | None, row: int
    ) -> Tensor:
        """One photo's depth in the metres of its camera."""
        if self.card.gives == INVERSE:
            return depth
        if self.kind == DEPTH_PRO:
            return self._from_canonical(depth, camera, None if fields is None else float(fields[row]))
        if camera is None or self.camera is None:
            return depth
        return depth * (self._seen_px(camera, seen_hw) / self._usual_px)

    def _from_canonical(self, inverse: Tensor, camera: Intrinsics | None, field_deg: float | None) -> Tensor:
        """Metres from the inverse depth of a camera whose focal length is its width (Bochkovskii et al., "Depth Pro",
        2024, section 3.1); a known focal length instead of the predicted field of view."""
        if camera is not None:
            over_width = camera.fx_px / camera.image_hw[1]
        elif field_deg is not None and 0.0 < field_deg < 180.0:
            over_width = 0.5 / math.tan(0.5 * math.radians(field_deg))
        else:
            why = (
                "it was saved without its own estimate" if field_deg is None else f"its own is {field_deg:.0f} degrees"
            )
            raise TeacherError(
                f"{self.card.name} needs the focal length of the camera, for {why}; give intrinsics with the data"
            )
        return over_width / inverse.clamp(_LEAST_INVERSE, _MOST_INVERSE)

    @functools.cached_property
    def _usual_px(self) -> float:
        """The focal length of the training camera's images as the model saw them."""
        lens = cast(TrainingCamera, self.camera).lens
        blank = np.zeros((*lens.image_hw, 3), np.uint8)
        seen = self.processor(images=[blank], return_tensors="pt")["pixel_values"]
        return self._seen_px(lens, (int(seen.shape[-2]), int(seen.shape[-1])))

    def _seen_px(self, camera: Intrinsics, seen_hw: tuple[int, int]) -> float:
        """A camera's focal length in pixels of the image that the model is given; the mean of both axes."""
        height, width = camera.image_hw
        rows, columns = _padding(camera.image_hw) if self._pads else (0, 0)
        down, right = seen_hw[0] / (height + 2 * rows), seen_hw[1] / (width + 2 * columns)
        return math.sqrt(camera.fx_px * right * camera.fy_px * down)

    @property
    def _pads(self) -> bool:
        return self.kind == ZOE and bool(getattr(self.processor, "do_pad", False))


def _padding(hw: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns that ZoeDepth's processor reflects at each end."""
    return int(math.sqrt(hw[0] / 2) * 3), int(math.sqrt(hw[1] / 2) * 3)


def _lens_in_words(kind: str, gives: str, camera: TrainingCamera | None) -> str:
    if gives == INVERSE:
        return "takes no focal length; measured depth gives scale and shift"
    if kind == DEPTH_PRO:
        return "metres are those of the camera by its focal length; where none is known its own estimate is taken"
    if camera is None:
        return "takes no focal length, and its training camera is not known: metres are as it gives them"
    return (
        f"takes no focal length: its metres are brought from the camera of {camera.data} to that of the photo, if known"
    )


def _check_folder(folder: Path) -> None:
    """Refuses a folder that is no teacher before transformers turns to the network for it."""
    for name in ("config.json", "preprocessor_config.json"):
        if not (folder / name).is_file():
            raise TeacherError(f"{folder} has no {name}; give the folder that `save_pretrained` wrote, or a Hub id")
    if not any(folder.glob("*.safetensors")):
        pickled = (
            " (its .bin weights are pickle, which can run code and is not read)" if any(folder.glob("*.bin")) else ""
        )
        raise TeacherError(
            f"{folder} has no safetensors weights{pickled}; write it anew with `save_pretrained`, or give a Hub id"
        )


def _commit(name: str) -> str | None:
    """The commit of a repository's main branch, of which everything is then read."""
    if _ID.fullmatch(name) is None:
        raise TeacherError(f"{name!r} is no folder, and no id on the Hub, such as org/name; check the path")
    try:
        return fetch(name, ["config.json"], remedies=_REMEDIES.format(name=name)).commit
    except HostError as error:
        raise TeacherError(str(error)) from error


def _model(name: str, commit: str | None) -> nn.Module:
    """The model with its own weights, every one of them."""

    def load(auto: Any, own: dict[str, Any]) -> tuple[nn.Module, dict[str, Any]]:
        made: tuple[nn.Module, dict[str, Any]] = auto.AutoModelForDepthEstimation.from_pretrained(
            name, use_safetensors=True, output_loading_info=True, **own
        )
        return made

    with torch.random.fork_rng(devices=[]):  # what is missing would be drawn at random
        loaded: tuple[nn.Module, dict[str, Any]] = _loaded(load, name, commit)
    model, report = loaded
    missing = [*report["missing_keys"], *(key for key, *_ in report.get("mismatched_keys", ()))]
    if missing:
        raise TeacherError(
            f"the weights of {name!r} are not whole: {few(missing)} are missing, and would be random; download it again"
        )
    return model


def _foreign() -> tuple[type[Exception], ...]:
    """What transformers raises of files that are damaged, absent or not its own."""
    import huggingface_hub.errors

    strict = getattr(huggingface_hub.errors, "StrictDataclassError", None)  # newer ones check configs by it
    known = (ValueError, KeyError, TypeError, AttributeError, ImportError, OSError, RuntimeError, SafetensorError)
    return known if strict is None else (*known, strict)


def _loaded(load: Any, name: str, commit: str | None) -> Any:
    """What transformers makes of a name, without any code but its own; TeacherError where it cannot."""
    import transformers

    own = {"trust_remote_code": False, **({} if commit is None else {"revision": commit})}
    try:
        return load(transformers, own)
    except _foreign() as error:
        raise TeacherError(
            f"transformers cannot load {name!r} as a depth estimator: {first_line(error)}. "
            f"{_REMEDIES.format(name=name)}"
        ) from error
