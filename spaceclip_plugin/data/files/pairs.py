"""A photo and its depth map as two files: read together, turned upright, checked, and fingerprinted.

For how they are turned see `_turn`, for their sizes `sizes_agree`, for distances along rays `along_axis`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt

from spaceclip_plugin import _checks
from spaceclip_plugin._digest import sha256_of
from spaceclip_plugin.data.files.depth_formats import METRE_SUFFIXES, read_stored_depth
from spaceclip_plugin.data.files.depth_values import StoredDepth
from spaceclip_plugin.data.files.images import Photo, read_photo
from spaceclip_plugin.data.files.orientation import UPRIGHT, upright, upright_hw, upright_intrinsics
from spaceclip_plugin.data.sample import DepthSample
from spaceclip_plugin.depth import Intrinsics
from spaceclip_plugin.errors import ConfigError, DataError

AXIS, RAY = "axis", "ray"
"""What input depth is measured along: the optical axis, or the ray through each pixel."""

Label = TypeVar("Label", int, str)

_READING = 3
"""Raised whenever the same files come to mean other pixels or metres: fingerprints, and so caches, change with it."""
_OFF_CENTRE, _CENTRED = 0.1, 0.05
_SHORTEST = 0.05
"""Of the longer side: a focal length below sees 168 degrees, which no pinhole camera does."""
_ASPECTS_WITHIN = 0.005
_ROUNDED_PX = 0.5 + 1e-9


def checked_distance(value: object) -> str:
    """`value` if it is "axis" or "ray"; ConfigError otherwise."""
    return _checks.choice("distance", value, (AXIS, RAY))


@dataclass(frozen=True)
class Lens:
    """A pinhole camera as a list or folder states it, in pixels of the depth map as its file stores it.

    Where `image_hw` is given, (H, W), in pixels of images of that size; fingerprints have it apart.
    """

    fx_px: float
    fy_px: float
    cx_px: float | None = None  # corner convention; None is the centre of the image
    cy_px: float | None = None
    image_hw: tuple[int, int] | None = field(default=None, repr=False)

    def intrinsics(self, image_hw: tuple[int, int]) -> Intrinsics:
        """Those of a depth map of size `image_hw`."""
        if self.image_hw not in (None, image_hw):
            return replace(self, image_hw=None).intrinsics(self.image_hw).resized(image_hw)
        height, width = image_hw
        cx_px = width / 2 if self.cx_px is None else self.cx_px
        cy_px = height / 2 if self.cy_px is None else self.cy_px
        return Intrinsics(self.fx_px, self.fy_px, cx_px, cy_px, image_hw)

    def off_centre(self, hw: tuple[int, int]) -> float:
        """How far the principal point is from the middle of a picture of that size, as a fraction of its side."""
        return max(abs((self.cx_px or 0.0) / hw[1] - 0.5), abs((self.cy_px or 0.0) / hw[0] - 0.5))


@dataclass(frozen=True)
class DepthPair(Generic[Label]):
    """Where the two files of one sample are, and what to call it."""

    rgb: Path
    depth: Path | None  # None: no depth is known of the photo
    name: str
    where: str  # what messages start with: the list and line, or the folder
    label: Label  # what its source calls it in `skipped`: the line, or the photo
    lens: Lens | None = None  # of the depth map, where known; without one, of the photo as stored

    @property
    def in_units(self) -> bool:
        """Whether the depth file holds integers, which need a unit."""
        return self.depth is not None and self.depth.suffix.lower() not in METRE_SUFFIXES

    def read(self, units_per_metre: float, distance: str) -> tuple[DepthSample, int]:
        """The sample, and the photo's orientation where the depth map was turned by it, else 1."""
        if self.depth is None:
            return self._photo_alone(), UPRIGHT
        try:
            photo = read_photo(self.rgb)
        except DataError as error:
            raise DataError(f"{self.where}: {error}") from error
        stored = self.stored_depth()
        depth_m = stored.metres(units_per_metre)
        if not depth_m.any():
            saturated = stored.saturated is not None and (stored.values == stored.saturated).any()
            why = f": every value is 0 or {stored.saturated}, the saturated value, which says no distance"
            raise DataError(
                f"{self.where}: {self.depth} has no pixel of known depth{why if saturated else ''}; leave it out"
            )
        camera = None if self.lens is None else self._camera(self.lens, stored, photo)
        if distance == RAY:
            if camera is None:
                raise DataError(f"{self.where}: {self.depth}: distance {RAY!r} needs the intrinsics of the depth map")
            depth_m = along_axis(depth_m, camera)
        orientation, with_photo = _turn(stored, photo)
        depth_m = upright(depth_m, orientation)
        height, width = depth_m.shape
        if not sizes_agree((height, width), photo.upright_hw):
            raise DataError(
                f"{self.where}: {self.depth} is {height}x{width} (HxW) but {self.rgb} is "
                f"{photo.upright_hw[0]}x{photo.upright_hw[1]}; a pair must be registered: of one size, or scaled alike "
                "in both sides"
            )
        camera = None if camera is None else upright_intrinsics(camera, orientation)
        return DepthSample(photo.image, depth_m, self.name, camera), orientation if with_photo else UPRIGHT

    def stored_depth(self) -> StoredDepth:
        """The depth map as its file holds it; DataError where there is none."""
        if self.depth is None:
            raise DataError(f"{self.where}: {self.rgb} has no depth map")
        try:
            return read_stored_depth(self.depth)
        except DataError as error:
            raise DataError(f"{self.where}: {error}") from error

    def fingerprint(self, units_per_metre: float, distance: str) -> str:
        """SHA-256 (hex) of the photo's bytes, its orientation among them, then of what decides depth and intrinsics."""
        units = float(units_per_metre) if self.in_units else None
        try:
            files = (self.rgb,) if self.depth is None else (self.rgb, self.depth)
            photo, *depths = (sha256_of(file.read_bytes()) for file in files)
        except OSError as error:
            raise DataError(f"{self.where}: cannot read {error.filename} ({error.strerror}); check the file") from error
        meaning: tuple[object, ...] = (_READING, units, self.lens, distance)
        if self.lens is not None and self.lens.image_hw is not None:
            meaning += (self.lens.image_hw,)
        return photo + sha256_of(f"{depths[0] if depths else None}{meaning!r}")

    def _photo_alone(self) -> DepthSample:
        """The sample of a photo without depth."""
        try:
            photo = read_photo(self.rgb)
        except DataError as error:
            raise DataError(f"{self.where}: {error}") from error
        stored = StoredDepth(np.zeros(photo.stored_hw, np.float32))
        camera = None if self.lens is None else self._camera(self.lens, stored, photo)
        camera = None if camera is None else upright_intrinsics(camera, photo.orientation)
        return DepthSample(photo.image, np.zeros(photo.upright_hw, np.float32), self.name, camera)

    def _camera(self, lens: Lens, stored: StoredDepth, photo: Photo) -> Intrinsics:
        """The lens for the stored depth map, unless it plainly is not in pixels, or in those of another picture."""
        file = self.depth or self.rgb
        focal_px, of_hw = max(lens.fx_px, lens.fy_px), lens.image_hw or stored.hw
        size = f"{stored.hw[0]}x{stored.hw[1]}"
        if focal_px < _SHORTEST * max(of_hw):
            raise DataError(
                f"{self.where}: a focal length of {focal_px:g} pixels is no camera's of {file}, which is {size} "
                "(HxW); give it in pixels, not in parts of the width, mm or m"
            )
        if lens.image_hw is not None:
            if not sizes_agree(lens.image_hw, stored.hw):
                raise DataError(
                    f"{self.where}: the intrinsics are of images of {lens.image_hw[0]}x{lens.image_hw[1]} (HxW), and "
                    f"{file}, stored as {size}, is no such image at any resolution; give those of the depth map "
                    "as stored"
                )
        elif lens.cx_px is not None and lens.cy_px is not None:
            upright_map = (stored.hw[1], stored.hw[0])
            others = {photo.stored_hw: "photo", photo.upright_hw: "upright photo", upright_map: "upright map"}
            for hw, name in others.items():
                if hw != stored.hw and lens.off_centre(stored.hw) > _OFF_CENTRE and lens.off_centre(hw) < _CENTRED:
                    raise DataError(
                        f"{self.where}: the principal point ({lens.cx_px:g}, {lens.cy_px:g}) is the middle of the "
                        f"{name} ({hw[0]}x{hw[1]}, HxW), not of {file}, stored as {size}; give the intrinsics in "
                        "pixels of the depth map as stored"
                    )
        return lens.intrinsics(stored.hw)


def sizes_agree(one_hw: tuple[int, int], other_hw: tuple[int, int]) -> bool:
    """Whether one size is the other scaled alike in both sides, but for rounding to whole pixels and 0.5 % of aspect.

    Those of ScanNet's photos, 968x1296, and depth, 480x640, agree to 0.42 %: a pixel at either edge.
    """
    if one_hw == other_hw:
        return True
    if one_hw[0] == other_hw[0] or one_hw[1] == other_hw[1]:  # a crop
        return False
    small, large = sorted((one_hw, other_hw))
    if abs(small[0] * large[1] / (small[1] * large[0]) - 1) <= _ASPECTS_WITHIN:
        return True
    low = max((side - _ROUNDED_PX) / whole for side, whole in zip(small, large, strict=True))
    high = min((side + _ROUNDED_PX) / whole for side, whole in zip(small, large, strict=True))
    return small[1] < large[1] and low <= high


def along_axis(ray_m: npt.NDArray[np.float32], intrinsics: Intrinsics) -> npt.NDArray[np.float32]:
    """Metres along the optical axis (z, REP-118) of a map of metres from the camera's centre, as Hypersim's.

    At 45 degrees these are longer by 41 %.
    """
    height, width = ray_m.shape
    if intrinsics.image_hw != (height, width):
        raise ConfigError(
            f"ray distance of {height}x{width} (HxW) needs intrinsics of that size, got {intrinsics.image_hw}"
        )
    x = (np.arange(width) + 0.5 - intrinsics.cx_px) / intrinsics.fx_px
    y = (np.arange(height) + 0.5 - intrinsics.cy_px) / intrinsics.fy_px
    longer = np.sqrt(1 + np.square(x)[None, :] + np.square(y)[:, None])
    axis_m: npt.NDArray[np.float32] = (ray_m / longer).astype(np.float32)
    return axis_m


def _turn(stored: StoredDepth, photo: Photo) -> tuple[int, bool]:
    """By which orientation the depth map is to be turned, and whether that is the photo's.

    A map without a tag is registered to its photo's stored pixels, unless its size shows that it lies upright already.
    """
    if stored.orientation is not None:
        return stored.orientation, False
    turned = sizes_agree(upright_hw(stored.hw, photo.orientation), photo.upright_hw)
    if photo.orientation == UPRIGHT or (sizes_agree(stored.hw, photo.upright_hw) and not turned):
        return UPRIGHT, False
    return photo.orientation, True
