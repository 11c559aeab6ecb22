"""A photo and its depth map as two files: read together, checked against each other, and fingerprinted."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from spaceclip_plugin.camera import Intrinsics
from spaceclip_plugin.data.image_files import METRE_SUFFIXES, read_depth, read_rgb
from spaceclip_plugin.data.sample import DepthSample
from spaceclip_plugin.errors import DataError


@dataclass(frozen=True)
class Lens:
    """A pinhole camera as a list or folder states it, in pixels of the depth map.

    Attributes:
        fx_px, fy_px: focal lengths.
        cx_px, cy_px: principal point, corner convention; None is the centre of the image.
    """

    fx_px: float
    fy_px: float
    cx_px: float | None = None
    cy_px: float | None = None

    def intrinsics(self, image_hw: tuple[int, int]) -> Intrinsics:
        """Those of a depth map of size `image_hw`."""
        height, width = image_hw
        cx_px = width / 2 if self.cx_px is None else self.cx_px
        cy_px = height / 2 if self.cy_px is None else self.cy_px
        return Intrinsics(self.fx_px, self.fy_px, cx_px, cy_px, image_hw)


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

    def read(self, *, units_per_metre: float) -> DepthSample:
        """Both files, decoded.

        Args:
            units_per_metre: of a 16-bit PNG; other formats hold metres.

        Raises:
            DataError: a file cannot be decoded, sizes differ, or no depth is known. Names place and file.
        """
        try:
            image = read_rgb(self.rgb)
            depth_m = read_depth(self.depth, units_per_metre=units_per_metre)
        except DataError as error:
            raise DataError(f"{self.where}: {error}") from error
        height, width = depth_m.shape
        if image.shape[:2] != (height, width):
            raise DataError(
                f"{self.where}: {self.depth} is {height}x{width} (HxW) but {self.rgb} is "
                f"{image.shape[0]}x{image.shape[1]}; a pair must be registered to one size"
            )
        if not depth_m.any():
            raise DataError(f"{self.where}: {self.depth} has no pixel of known depth; leave it out")
        intrinsics = None if self.lens is None else self.lens.intrinsics((height, width))
        return DepthSample(image, depth_m, self.name, intrinsics)

    def fingerprint(self, *, units_per_metre: float) -> str:
        """SHA-256 (hex) of the photo's bytes, then that of the depth's, the unit it is read with and the lens.

        Raises:
            DataError: a file cannot be read. Names place and file.
        """
        units = None if self.depth.suffix.lower() in METRE_SUFFIXES else float(units_per_metre)
        photo, depth = (self._digest(file) for file in (self.rgb, self.depth))
        return photo + hashlib.sha256(f"{depth}{(units, self.lens)!r}".encode()).hexdigest()

    def _digest(self, file: Path) -> str:
        try:
            return hashlib.sha256(file.read_bytes()).hexdigest()
        except OSError as error:
            raise DataError(f"{self.where}: cannot read {file} ({error.strerror}); check the file") from error
