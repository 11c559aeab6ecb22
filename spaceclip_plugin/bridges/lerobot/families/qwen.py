"""VLA-JEPA, Wall-X, EO-1 and GR00T N1.7: images as the image processor of a Qwen-VL packs them, unpacked again.

Where a policy sets no size of its own, that of the tower's image follows the camera's: photos of all sizes are laid in
the one that its cameras have.
"""

from __future__ import annotations

import functools
import importlib
import sys
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import interpolate

from spaceclip_plugin.bridges.lerobot.families.family import (
    Family,
    Laying,
    Middle,
    Step,
    Stretch,
    camera_sizes,
    pair,
    setting,
)
from spaceclip_plugin.bridges.lerobot.families.saved_steps import saved_step
from spaceclip_plugin.errors import HostError


class QwenVL(Family):
    """Policies whose images a Qwen-VL's image processor prepares at last."""

    follows_camera = True

    def laying(self, policy: nn.Module) -> Laying | None:
        """As what is shown of an image of its first camera's size tells."""
        if self.lacking(policy):
            return None
        if not (sizes := camera_sizes(policy)):
            return None
        shown = self.show(policy, "", torch.zeros(1, 3, *sizes[0]))
        return Laying("stretch", (Stretch((shown.shape[2], shown.shape[3])),))

    def show(self, policy: nn.Module, key: str, image: Tensor) -> Tensor:
        """See `Family`."""
        packed = self.packed(policy, image)
        patches, grids = packed["pixel_values"], packed["image_grid_thw"]
        [(frames, rows, columns)] = {tuple(grid) for grid in grids.tolist()}
        processor = self.processor(policy)
        merge, patch = processor.merge_size, processor.patch_size
        return rearrange(
            patches,
            "(b h w m n) (c t p q) -> b t c (h m p) (w n q)",
            b=len(image) * frames,
            h=rows // merge,
            w=columns // merge,
            m=merge,
            n=merge,
            c=3,
            p=patch,
            q=patch,
        )[:, -1]

    def lacking(self, policy: nn.Module) -> str:
        """See `Family`."""
        try:
            self.processor(policy)
        except HostError as error:
            return str(error)
        return super().lacking(policy)

    @abstractmethod
    def packed(self, policy: nn.Module, image: Tensor) -> Mapping[str, Tensor]:
        """`pixel_values` and `image_grid_thw` of images (B, 3, H, W)."""

    @abstractmethod
    def processor(self, policy: nn.Module) -> Any:
        """The image processor; HostError where the policy has none."""


class VLAJEPA(QwenVL):
    """See `Family`."""

    prepares = "model.qwen.processor.image_processor"

    def packed(self, policy: nn.Module, image: Tensor) -> Mapping[str, Tensor]:
        """See `QwenVL`."""
        size = pair(setting(policy, "resize_images_to"))
        images = policy.get_submodule("model.qwen").to_pixel_values(image)  # type: ignore[operator]  # its own class
        if size is not None:
            images = torch.cat([interpolate(one[None], size=size, mode="area") for one in images])
        found: Mapping[str, Tensor] = self.processor(policy)(images=[*images], return_tensors="pt", do_rescale=False)
        return found

    def processor(self, policy: nn.Module) -> Any:
        """See `QwenVL`."""
        return _held(policy.get_submodule("model.qwen"))


class WallX(QwenVL):
    """See `Family`."""

    prepares = "_prepare_wall_x_image_inputs"

    def packed(self, policy: nn.Module, image: Tensor) -> Mapping[str, Tensor]:
        """See `QwenVL`."""
        images, _sizes = getattr(sys.modules[type(policy).__module__], self.prepares)({"": image}, [""])
        found: Mapping[str, Tensor] = self.processor(policy)(images=images, return_tensors="pt")
        return found

    def processor(self, policy: nn.Module) -> Any:
        """See `QwenVL`."""
        return _held(policy.get_submodule("model"))


class EO1(QwenVL):
    """Its preprocessor packs images with the image processor of the model that the policy was made of."""

    prepares = "eo1_qwen_processor"

    def packed(self, policy: nn.Module, image: Tensor) -> Mapping[str, Tensor]:
        """See `QwenVL`."""
        images = image.cpu().clamp(0, 1).mul(255.0).round().to(torch.uint8)
        limits = {side: setting(policy, f"image_{side}_pixels") for side in ("min", "max")}
        found: Mapping[str, Tensor] = self.processor(policy)(
            images=[*images], return_tensors="pt", min_pixels=limits["min"], max_pixels=limits["max"]
        )
        return found

    def processor(self, policy: nn.Module) -> Any:
        """See `QwenVL`."""
        fast = bool(setting(policy, "use_fast_processor"))
        return _of_files("AutoImageProcessor", str(setting(policy, "vlm_base")), use_fast=fast)


class Groot(QwenVL):
    """Its preprocessor resizes, crops and resizes again, as its saved step says, and packs with Qwen 3's processor."""

    prepares = "groot_n1_7_vlm_encode_v1"
    follows_camera = False

    def laying(self, policy: nn.Module) -> Laying | None:
        """See `Family`."""
        if self.lacking(policy):
            return None
        step = self._step(policy)
        target = step.image_target_size
        if target is None:
            return super().laying(policy)
        edge = step.shortest_image_edge or target[0]
        share = step.crop_fraction or (None if step.image_crop_size is None else step.image_crop_size[0] / target[0])
        steps: list[Step] = [Stretch((edge, edge))]
        if share is not None and 0 < share < 1:
            side = max(1, round(edge * share))
            steps.append(Middle((side, side), to_even=False))
        shown = self.show(policy, "", torch.zeros(1, 3, edge, edge))
        steps.append(Stretch((shown.shape[2], shown.shape[3])))
        words = "x".join(str(each.hw[0]) for each in steps)
        return Laying("stretch" if len(steps) == 2 else f"stretch, middle, stretch: {words}", steps)

    def packed(self, policy: nn.Module, image: Tensor) -> Mapping[str, Tensor]:
        """See `QwenVL`."""
        frames = (
            (image.cpu().clamp(0, 1) * 255.0).to(torch.uint8).permute(0, 2, 3, 1)[:, None, None]
        )  # (B, T, V, H, W, C)
        shown = [
            each for sample in self._step(policy)._build_sample_images(frames, len(image), None) for each in sample
        ]
        found: Mapping[str, Tensor] = self.processor(policy)(images=shown, return_tensors="pt")
        return found

    def processor(self, policy: nn.Module) -> Any:
        """See `QwenVL`."""
        return _of_files("Qwen2VLImageProcessor", str(self._step(policy).model_name))

    def lacking(self, policy: nn.Module) -> str:
        """See `Family`."""
        reason = super().lacking(policy)
        if not reason and self._step(policy).letter_box_transform:
            return "its preprocessor letterboxes images before it resizes them"
        if not reason and self._step(policy).use_albumentations:
            return "its preprocessor resizes images with albumentations, whose sizes follow the camera's"
        return reason

    def _step(self, policy: nn.Module) -> Any:
        """The step of its saved preprocessor."""
        settings = saved_step(policy, self.prepares)
        module = sys.modules[type(policy).__module__].__name__.replace("modeling_", "processor_")
        made = importlib.import_module(module).GrootN17VLMEncodeStep
        try:
            return made(**settings)
        except TypeError as error:
            raise HostError(f"the step {self.prepares!r} of its preprocessor is of another LeRobot: {error}") from error


def _held(owner: nn.Module) -> Any:
    """The image processor that a part of a policy keeps."""
    processor = getattr(getattr(owner, "processor", None), "image_processor", None)
    if processor is None:
        raise HostError(f"the {type(owner).__name__} of the policy has no image processor")
    return processor


@functools.lru_cache(maxsize=4)
def _of_files(kind: str, name: str, **how: Any) -> Any:
    """An image processor of transformers, of files that are there already."""
    import transformers

    try:
        return getattr(transformers, kind).from_pretrained(name, local_files_only=True, **how)
    except (OSError, ValueError, ImportError) as error:
        raise HostError(
            f"the image processor of {name} cannot be read ({str(error).partition(chr(10))[0]}); its files must be on "
            f"this machine: hf download {name} --include '*processor_config.json'"
        ) from error
