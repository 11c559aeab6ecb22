"""Which pixels are compared, and how a prediction gets onto them: what an evaluation protocol is."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from spaceclip_plugin import _checks
from spaceclip_plugin.data import DepthSample
from spaceclip_plugin.depth import Intrinsics
from spaceclip_plugin.errors import ConfigError, DataError
from spaceclip_plugin.evaluation.metrics import DepthMetrics, depth_metrics

_KB_CROP_HW = (352, 1216)
_UNKNOWN = (0.0, math.inf)
_ROUNDING = 1e-6


@dataclass(frozen=True)
class PixelRegion:
    """Rows [top, bottom) and columns [left, right) of an image of exactly `image_hw`."""

    top: int
    bottom: int
    left: int
    right: int
    image_hw: tuple[int, int]

    def slices(self, image_hw: tuple[int, int]) -> tuple[slice, slice]:
        """Rows and columns; DataError for an image of another size, where the region has no meaning."""
        if image_hw != self.image_hw:
            raise DataError(
                f"this protocol's mask is defined on {self.image_hw[0]}x{self.image_hw[1]} (HxW) images, "
                f"got {image_hw[0]}x{image_hw[1]}; use the original images or a protocol without a fixed size"
            )
        return slice(self.top, self.bottom), slice(self.left, self.right)


@dataclass(frozen=True)
class FractionRegion:
    """Rows [top, bottom) and columns [left, right) as fractions of the image's height and width."""

    top: float
    bottom: float
    left: float
    right: float

    def slices(self, image_hw: tuple[int, int]) -> tuple[slice, slice]:
        """Rows and columns, each edge rounded down to a pixel as in the published evaluations."""
        height, width = image_hw
        rows = slice(int(self.top * height), int(self.bottom * height))
        return rows, slice(int(self.left * width), int(self.right * width))


@dataclass(frozen=True, eq=False)
class Compared:
    """Maps of one image next to its ground truth."""

    maps_m: Tensor  # (N, H, W), NaN outside what the host saw
    target_m: Tensor  # (H, W)
    valid: Tensor  # (H, W) bool, the pixels that count
    unseen_pixels: int = 0  # how many more would, had the tower read them


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How one published evaluation turns a prediction and a sample into metrics.

    Attributes:
        name: key in `PROTOCOLS`.
        description: one line for people.
        depth_scale: units of the data set's depth PNG per metre.
        max_depth_m, min_depth_m: ground truth counts strictly between them; predictions are clipped to them.
        region: the part of the target that counts; None for all of it.
        region_within: what the region is a part of: the whole target, or the crop that the host sees.
        kb_crop: the host sees the KITTI benchmark crop, bottom 352 rows and centre 1216 columns.
        frame_px: pixels at every edge that the host does not see: NYU's photos have a white frame, which a head would
            know them by.
        resized_hw: the target is resized (nearest pixel centre) to this size first; None keeps its own.
        median_range_m: where the median depth of a data set lies if its depth is read in the right unit. No more of it
            is kept than lies in the depth range; where none is given it is the depth range.

    Raises:
        ConfigError: a setting that is out of bounds or excludes another one.

    Example:
        >>> protocol = Protocol(name="desk", description="every pixel", depth_scale=1000.0, max_depth_m=2.0)
        >>> protocol.with_range(0.1, 1.5).name, protocol.median_range_m
        ('desk 0.1-1.5 m', (0.001, 2.0))
    """

    name: str
    description: str
    depth_scale: float
    max_depth_m: float
    min_depth_m: float = 1e-3
    region: PixelRegion | FractionRegion | None = None
    region_within: Literal["target", "crop"] = "target"
    kb_crop: bool = False
    frame_px: int = 0
    resized_hw: tuple[int, int] | None = None
    median_range_m: tuple[float, float] = _UNKNOWN

    def __post_init__(self) -> None:
        if not (math.isfinite(self.depth_scale) and self.depth_scale > 0):
            raise ConfigError(f"protocol {self.name!r}: depth_scale must be positive and finite, is {self.depth_scale}")
        if not 0 < self.min_depth_m < self.max_depth_m < math.inf:
            raise ConfigError(
                f"protocol {self.name!r}: needs 0 < min_depth_m < max_depth_m, both finite, "
                f"got {self.min_depth_m} and {self.max_depth_m}"
            )
        _checks.whole(f"frame_px of protocol {self.name!r}", self.frame_px, 0, 64)
        crops = [name for name in ("kb_crop", "frame_px", "resized_hw") if getattr(self, name)]
        if len(crops) > 1:
            raise ConfigError(f"protocol {self.name!r}: {' and '.join(crops)} exclude each other; choose one")
        if self.region_within not in ("target", "crop"):
            raise ConfigError(
                f"protocol {self.name!r}: region_within must be 'target' or 'crop', is {self.region_within!r}"
            )
        if self.region_within == "crop" and not (self.kb_crop and self.region is not None):
            raise ConfigError(
                f"protocol {self.name!r}: region_within='crop' needs kb_crop=True and a region; "
                "without a crop a region is part of the target"
            )
        low_m, high_m = self.median_range_m
        within = max(low_m, self.min_depth_m), min(high_m, self.max_depth_m)
        if not within[0] < within[1]:
            raise ConfigError(
                f"protocol {self.name!r}: median_range_m must be (low, high) metres, low < high, and overlap the depth "
                f"range of {self.min_depth_m} to {self.max_depth_m} m, got {self.median_range_m}"
            )
        object.__setattr__(self, "median_range_m", within)  # readers always get two finite numbers

    def with_range(self, min_m: float, max_m: float) -> Protocol:
        """This protocol for another range of depth in metres; its name says so: "whole-image 0.1-2 m".

        The data of another range need not be like the protocol's own: any median within it is plausible.

        Raises:
            ConfigError: not 0 < min_m < max_m, or not finite.
        """
        name = self.name.removesuffix(_range_suffix(self.min_depth_m, self.max_depth_m))
        return replace(
            self,
            name=name + _range_suffix(min_m, max_m),
            min_depth_m=float(min_m),
            max_depth_m=float(max_m),
            median_range_m=_UNKNOWN,
        )

    def crop_box(self, image_hw: tuple[int, int]) -> tuple[int, int, int, int]:
        """(top, left, height, width) of what the host sees, in pixels of an image of size `image_hw`.

        Raises:
            DataError: the image is smaller than the KITTI benchmark crop, or than the frame.
        """
        height, width = image_hw
        if self.frame_px:
            frame = self.frame_px
            if min(height, width) <= 2 * frame:
                raise DataError(
                    f"protocol {self.name!r} leaves out {frame} pixels at every edge of the image, got {height}x{width}"
                )
            return frame, frame, height - 2 * frame, width - 2 * frame
        if not self.kb_crop:
            return 0, 0, height, width
        crop_height, crop_width = _KB_CROP_HW
        if height < crop_height or width < crop_width:
            raise DataError(
                f"protocol {self.name!r} crops {crop_height}x{crop_width} (HxW) from the image, got {height}x{width}; "
                "use the original KITTI images, or 'spaceclip-kitti', which does not crop"
            )
        return height - crop_height, (width - crop_width) // 2, crop_height, crop_width

    def target_hw(self, image_hw: tuple[int, int]) -> tuple[int, int]:
        """Size on which prediction and ground truth are compared."""
        return self.resized_hw or image_hw

    def mask(self, image_hw: tuple[int, int]) -> Tensor:
        """(H, W) bool of size `target_hw(image_hw)`: pixels inside both the region and the crop.

        Raises:
            DataError: the protocol does not know images of this size.
        """
        target_hw = self.target_hw(image_hw)
        top, left, height, width = self._paste_box(image_hw)
        mask = torch.zeros(target_hw, dtype=torch.bool)
        mask[top : top + height, left : left + width] = True
        if self.region is None:
            return mask
        region = torch.zeros_like(mask)
        whole = region if self.region_within == "target" else region[top : top + height, left : left + width]
        whole[self.region.slices((whole.shape[0], whole.shape[1]))] = True
        return mask & region

    def input_image(self, sample: DepthSample) -> npt.NDArray[np.uint8]:
        """(h, w, 3) uint8 RGB that the host must see: the sample's image, cropped where the protocol crops.

        Raises:
            DataError: the image is too small for the crop, or, where there is one, not of the depth map's size.
        """
        with _naming(sample):
            self._check_crop(sample)
            top, left, height, width = self.crop_box((sample.image.shape[0], sample.image.shape[1]))
        return np.ascontiguousarray(sample.image[top : top + height, left : left + width])

    def input_intrinsics(self, sample: DepthSample) -> Intrinsics | None:
        """Intrinsics of `input_image(sample)`, in its pixels; None where the sample has none.

        Raises:
            DataError: see `input_image`.
        """
        if sample.intrinsics is None:
            return None
        image_hw = (sample.image.shape[0], sample.image.shape[1])
        with _naming(sample):
            top, left, height, width = self.crop_box(image_hw)
        return sample.intrinsics.resized(image_hw).cropped(top, left, (height, width))

    def prediction_hw(self, image_hw: tuple[int, int]) -> tuple[int, int]:
        """Size at which a prediction is best made where the depth map has `image_hw`: `score` then resizes nothing."""
        return self._paste_box(image_hw)[2:]

    def training_target(self, sample: DepthSample) -> npt.NDArray[np.float32]:
        """(h, w) metres that a prediction of size `prediction_hw` should have; 0 where unknown, unmasked."""
        with _naming(sample):
            top, left, height, width = self._paste_box((sample.depth_m.shape[0], sample.depth_m.shape[1]))
        target: npt.NDArray[np.float32] = self._target(sample).numpy()
        return target[top : top + height, left : left + width]

    def check(self, sample: DepthSample) -> None:
        """Raise DataError, naming the sample, if this protocol cannot score it."""
        self._known(sample)

    def score(self, prediction_m: Tensor, sample: DepthSample, *, seen: Tensor | None = None) -> DepthMetrics:
        """Metrics of a prediction for `input_image(sample)`.

        The prediction is resized (bilinear, half-pixel centres) to the size of the crop, pasted where the crop was
        and clipped to the depth range; pixels count where the ground truth is in range and the mask is true.

        Args:
            prediction_m: (h, w) metres, any size, of what `input_image` returned.
            sample: the image's ground truth.
            seen: (h, w) bool, False where the tower read nothing of the image: such pixels do not count. None: all
                were read.

        Raises:
            DataError: the prediction is not a finite (h, w) map, the sample has a size the protocol does not know, or
                none of its pixels that were seen is valid under the mask. Names the sample.
        """
        if prediction_m.ndim != 2:
            shape = tuple(prediction_m.shape)
            raise DataError(f"{sample.name}: expected a prediction of shape (h, w), got {shape}; score image by image")
        if not bool(torch.isfinite(prediction_m).all()):
            raise DataError(f"{sample.name}: expected finite metres, got a prediction with NaN or infinity")
        compared = self.compared(prediction_m[None], sample, seen=seen)
        clipped_m = compared.maps_m[0].clamp(self.min_depth_m, self.max_depth_m)
        return depth_metrics(clipped_m, compared.target_m, valid=compared.valid)

    def compared(self, maps_m: Tensor, sample: DepthSample, *, seen: Tensor | None = None) -> Compared:
        """Maps of `input_image(sample)` brought onto the ground truth as `score` does, not clipped.

        Args:
            maps_m: (N, h, w) metres, any size.
            sample: the image's ground truth.
            seen: see `score`.

        Raises:
            DataError: see `score`.
        """
        target_m, valid = self._known(sample)
        top, left, height, width = self._paste_box((sample.depth_m.shape[0], sample.depth_m.shape[1]))
        whole_m = torch.full((len(maps_m), *target_m.shape), torch.nan)
        crops_m = maps_m.detach().cpu().float()[None]
        crops_m = functional.interpolate(crops_m, (height, width), mode="bilinear", align_corners=False)
        whole_m[:, top : top + height, left : left + width] = crops_m[0]
        if seen is None or bool(seen.all()):
            return Compared(whole_m, target_m, valid)
        # Resized like the maps: a pixel that is made of one that was not seen is not seen either.
        shares = functional.interpolate(seen.cpu()[None, None].float(), (height, width), mode="bilinear")[0, 0]
        unseen = torch.zeros_like(valid)
        unseen[top : top + height, left : left + width] = shares < 1 - _ROUNDING
        whole_m[:, unseen] = torch.nan
        if not bool((valid & ~unseen).any()):
            raise DataError(
                f"{sample.name}: the tower reads none of the {int(valid.sum())} pixels that have ground truth under "
                f"protocol {self.name!r}; leave this sample out"
            )
        return Compared(whole_m, target_m, valid & ~unseen, unseen_pixels=int((valid & unseen).sum()))

    def _known(self, sample: DepthSample) -> tuple[Tensor, Tensor]:
        """The target in metres and where it counts, both of size `target_hw`."""
        with _naming(sample):
            self._check_crop(sample)
            mask = self.mask((sample.depth_m.shape[0], sample.depth_m.shape[1]))
        target_m = self._target(sample)
        valid = mask & (target_m > self.min_depth_m) & (target_m < self.max_depth_m)
        if not bool(valid.any()):
            raise DataError(
                f"{sample.name}: no ground truth between {self.min_depth_m} and {self.max_depth_m} m under the mask of "
                f"protocol {self.name!r}; leave this sample out (--skip-bad does) or check the depth encoding"
            )
        return target_m, valid

    def _check_crop(self, sample: DepthSample) -> None:
        """A crop counts pixels: of photo and depth map alike only if these are of one size."""
        if (self.kb_crop or self.frame_px) and sample.image.shape[:2] != sample.depth_m.shape:
            raise DataError(
                f"protocol {self.name!r} crops pixels of photo and depth map alike, got a photo of "
                f"{sample.image.shape[:2]} and depth of {sample.depth_m.shape} (H, W); bring them to one size, or use "
                "'spaceclip-kitti', which does not crop"
            )

    def _paste_box(self, image_hw: tuple[int, int]) -> tuple[int, int, int, int]:
        """`crop_box` in pixels of the target instead of the image."""
        return self.crop_box(image_hw) if self.resized_hw is None else (0, 0, *self.resized_hw)

    def _target(self, sample: DepthSample) -> Tensor:
        target_m = torch.from_numpy(np.array(sample.depth_m, dtype=np.float32))
        if self.resized_hw is None:
            return target_m
        # "nearest-exact" samples at pixel centres like Pillow, with which the figures were made; "nearest" does not.
        return functional.interpolate(target_m[None, None], self.resized_hw, mode="nearest-exact")[0, 0]


@contextmanager
def _naming(sample: DepthSample) -> Iterator[None]:
    """Puts the sample's name in front of a DataError from inside."""
    try:
        yield
    except DataError as error:
        raise DataError(f"{sample.name}: {error}") from error


def _range_suffix(min_m: float, max_m: float) -> str:
    return f" {min_m:.12g}-{max_m:.12g} m"
