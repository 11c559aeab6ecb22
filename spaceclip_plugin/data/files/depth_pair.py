"""A photo and its depth map as two files: read together, turned upright, checked, and fingerprinted.

Which way up. A file with an EXIF orientation of its own is turned by it (1: not at all). A depth map without one is
taken to be registered to its photo's stored pixels, and is turned as the photo is; unless its size shows that it lies
upright already (a portrait beside a photo that is stored as landscape). The intrinsics are those of the depth map as
its file stores it, and are turned with it.

Sizes. Photo and depth show the same view. They may differ in size, as those of ScanNet and ARKit do, where both sides
are scaled alike: aspect ratios agree to 0.5 %, or but for rounding to whole pixels. Depth keeps its own size, in which
it is learnt and scored.

Distance. Depth is along the optical axis; where the source says `ray` it is converted, by the intrinsics.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from spaceclip_plugin._digest import sha256_of
from spaceclip_plugin.data.files.depth_values import StoredDepth
from spaceclip_plugin.data.files.image_files import METRE_SUFFIXES, Photo, read_photo, read_stored_depth
from spaceclip_plugin.data.files.orientation import UPRIGHT, upright, upright_hw, upright_intrinsics
from spaceclip_plugin.data.files.pair_size import same_view
from spaceclip_plugin.data.files.ray_distance import AXIS, RAY, along_axis
from spaceclip_plugin.data.sample import DepthSample
from spaceclip_plugin.depth.camera import Intrinsics
from spaceclip_plugin.errors import DataError

_READING = 3
"""Raised whenever the same files come to mean other pixels or metres: fingerprints, and so caches, change with it."""
_OFF_CENTRE, _CENTRED = 0.1, 0.05
_SHORTEST = 0.05
"""Of the longer side: a focal length below sees 168 degrees, which no pinhole camera does."""


@dataclass(frozen=True)
class Lens:
    """A pinhole camera as a list or folder states it, in pixels of the depth map as its file stores it.

    Attributes:
        fx_px, fy_px: focal lengths.
        cx_px, cy_px: principal point, corner convention; None is the centre of the image.
        image_hw: (H, W) of the images that all this is of, where that is told; None: of the depth map.
    """

    fx_px: float
    fy_px: float
    cx_px: float | None = None
    cy_px: float | None = None
    image_hw: tuple[int, int] | None = field(default=None, repr=False)  # fingerprints have it apart

    def intrinsics(self, image_hw: tuple[int, int]) -> Intrinsics:
        """Those of a depth map of size `image_hw`."""
        if self.image_hw not in (None, image_hw):
            return replace(self, image_hw=None).intrinsics(self.image_hw).resized(image_hw)
        height, width = image_hw
        cx_px = width / 2 if self.cx_px is None else self.cx_px
        cy_px = height / 2 if self.cy_px is None else self.cy_px
        return Intrinsics(self.fx_px, self.fy_px, cx_px, cy_px, image_hw)


@dataclass(frozen=True, eq=False)
class ReadPair:
    """Both files, decoded.

    Attributes:
        sample: photo and depth, upright.
        turned_with_photo: the photo's orientation, where the depth map was turned by it; else 1.
    """

    sample: DepthSample
    turned_with_photo: int


@dataclass(frozen=True)
class DepthPair:
    """Where the two files of one sample are, and what to call it.

    Attributes:
        rgb, depth: the files.
        name: of the sample.
        where: what messages start with: the list and line, or the folder.
        lens: of the depth map, where known.
    """

    rgb: Path
    depth: Path
    name: str
    where: str
    lens: Lens | None = None

    @property
    def in_units(self) -> bool:
        """Whether the depth file holds integers, which need a unit."""
        return self.depth.suffix.lower() not in METRE_SUFFIXES

    def read(self, *, units_per_metre: float, distance: str = AXIS) -> ReadPair:
        """Both files, decoded.

        Args:
            units_per_metre: of integer depth (16-bit PNG or PGM); other formats hold metres.
            distance: what depth is measured along, one of `DISTANCES`.

        Raises:
            DataError: a file cannot be decoded, they do not show one view, intrinsics are missing or of another size,
                or no depth is known. Names place and file.
        """
        try:
            photo = read_photo(self.rgb)
        except DataError as error:
            raise DataError(f"{self.where}: {error}") from error
        stored = self.stored_depth()
        depth_m = stored.metres(units_per_metre)
        if not depth_m.any():
            raise DataError(f"{self.where}: {self.depth} has no pixel of known depth{_why(stored)}; leave it out")
        camera = None if self.lens is None else self._camera(self.lens, stored, photo)
        if distance == RAY:
            if camera is None:
                raise DataError(f"{self.where}: {self.depth}: distance {RAY!r} needs the intrinsics of the depth map")
            depth_m = along_axis(depth_m, camera)
        orientation, with_photo = _turn(stored, photo)
        depth_m = upright(depth_m, orientation)
        self._check_size(depth_m, photo)
        camera = None if camera is None else upright_intrinsics(camera, orientation)
        sample = DepthSample(photo.image, depth_m, self.name, camera)
        return ReadPair(sample, orientation if with_photo else UPRIGHT)

    def stored_depth(self) -> StoredDepth:
        """The depth map as its file holds it.

        Raises:
            DataError: the file cannot be decoded. Names place and file.
        """
        try:
            return read_stored_depth(self.depth)
        except DataError as error:
            raise DataError(f"{self.where}: {error}") from error

    def fingerprint(self, *, units_per_metre: float, distance: str = AXIS) -> str:
        """SHA-256 (hex) of the photo's bytes, then that of what decides depth and intrinsics.

        That is the depth file's bytes, the unit it is read with, the lens, what distance it holds and how it is read;
        the photo's orientation counts by the photo's bytes.

        Raises:
            DataError: a file cannot be read. Names place and file.
        """
        units = float(units_per_metre) if self.in_units else None
        photo, depth = (self._digest(file) for file in (self.rgb, self.depth))
        meaning: tuple[object, ...] = (_READING, units, self.lens, distance)
        if self.lens is not None and self.lens.image_hw is not None:
            meaning += (self.lens.image_hw,)
        return photo + sha256_of(f"{depth}{meaning!r}")

    def _digest(self, file: Path) -> str:
        try:
            return sha256_of(file.read_bytes())
        except OSError as error:
            raise DataError(f"{self.where}: cannot read {file} ({error.strerror}); check the file") from error

    def _check_size(self, depth_m: npt.NDArray[np.float32], photo: Photo) -> None:
        height, width = depth_m.shape
        if not same_view((height, width), photo.hw):
            raise DataError(
                f"{self.where}: {self.depth} is {height}x{width} (HxW) but {self.rgb} is {photo.hw[0]}x{photo.hw[1]}; "
                "a pair must be registered to one view: of one size, or scaled alike in both sides"
            )

    def _camera(self, lens: Lens, stored: StoredDepth, photo: Photo) -> Intrinsics:
        """The lens for the stored depth map, unless it plainly is not in pixels, or in those of another picture."""
        focal_px, of_hw = max(lens.fx_px, lens.fy_px), lens.image_hw or stored.hw
        if focal_px < _SHORTEST * max(of_hw):
            raise DataError(
                f"{self.where}: a focal length of {focal_px:g} pixels is no camera's of {self.depth}, which is "
                f"{stored.hw[0]}x{stored.hw[1]} (HxW); give it in pixels, not in parts of the width, mm or m"
            )
        if lens.image_hw is not None:
            if not same_view(lens.image_hw, stored.hw):
                raise DataError(
                    f"{self.where}: the intrinsics are of images of {lens.image_hw[0]}x{lens.image_hw[1]} (HxW), and "
                    f"{self.depth}, stored as {stored.hw[0]}x{stored.hw[1]}, is no such image at any resolution; give "
                    "those of the depth map as stored"
                )
        elif lens.cx_px is not None and lens.cy_px is not None:
            others = {photo.stored_hw: "photo", photo.hw: "upright photo", (stored.hw[1], stored.hw[0]): "upright map"}
            for hw, name in others.items():
                if hw != stored.hw and _off(lens, stored.hw) > _OFF_CENTRE and _off(lens, hw) < _CENTRED:
                    raise DataError(
                        f"{self.where}: the principal point ({lens.cx_px:g}, {lens.cy_px:g}) is the middle of the "
                        f"{name} ({hw[0]}x{hw[1]}, HxW), not of {self.depth}, stored as {stored.hw[0]}x{stored.hw[1]}; "
                        "give the intrinsics in pixels of the depth map as stored"
                    )
        return lens.intrinsics(stored.hw)


def _turn(stored: StoredDepth, photo: Photo) -> tuple[int, bool]:
    """By which orientation the depth map is to be turned, and whether that is the photo's."""
    if stored.orientation is not None:
        return stored.orientation, False
    if photo.orientation == UPRIGHT:
        return UPRIGHT, False
    if same_view(stored.hw, photo.hw) and not same_view(upright_hw(stored.hw, photo.orientation), photo.hw):
        return UPRIGHT, False
    return photo.orientation, True


def _off(lens: Lens, hw: tuple[int, int]) -> float:
    """How far the principal point is from the middle of a picture of that size, as a fraction of its side."""
    cx_px, cy_px = float(lens.cx_px or 0.0), float(lens.cy_px or 0.0)
    return max(abs(cx_px / hw[1] - 0.5), abs(cy_px / hw[0] - 0.5))


def _why(stored: StoredDepth) -> str:
    if stored.saturated is not None and (stored.values == stored.saturated).any():
        return f": every value is 0 or {stored.saturated}, the saturated value, which says no distance"
    return ""
