"""Cameras whose lens distorts, and the pinhole images that heads read: undistorted by OpenCV, extra `[camera]`."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from spaceclip_plugin._checks import number, shown, size_hw
from spaceclip_plugin.depth.camera import Intrinsics, principal_point_inside, same_aspect
from spaceclip_plugin.depth.lens_model import BROWN_CONRADY, NO_FOLD_DEG, Array, LensModel, Map, checked_coefficients
from spaceclip_plugin.depth.photo import ImageLike, photo_pixels
from spaceclip_plugin.errors import ConfigError

VALID, ALL = "valid", "all"
_WIDEST_DEG, _WIDEST_WHOLE_DEG = 120.0, 150.0  # beyond, a pinhole image is mostly stretched border
_MAX_SIDE_PX = (1 << 15) - 2  # of OpenCV's remap
_BORDER_PLACES = 512  # along each side; the border may bulge by _EDGE_PX between two
_EDGE_PX = 0.05
_MOST_SAMPLES = 4
_NODES = 160  # along each side, where the way back is found


@dataclass(frozen=True)
class DistortedCamera:
    """A camera with lens distortion in OpenCV's models. Heads read pinhole images: those of `undistorted`.

    The pinhole has the camera's image size and principal point, and focal lengths scaled by one factor. Like every
    camera of this package this one is in the corner convention; `from_opencv` adds the half.

    Example:
        >>> camera = DistortedCamera(60.0, 60.0, 64.0, 48.0, (96, 128), "brown-conrady", (-0.2, 0.03, 0.0, 0.0))
        >>> photo = np.zeros((96, 128, 3), np.uint8)
        >>> camera.undistorted(photo).shape, bool(camera.valid.all())  # needs spaceclip-plugin[camera]
        ((96, 128, 3), True)
        >>> camera.intrinsics.fx_px < 60.0
        True

    Attributes:
        fx_px, fy_px, cx_px, cy_px: in pixels, corner convention.
        image_hw: size of the distorted image, (H, W).
        model: "brown-conrady", the plain model of OpenCV, or "fisheye", the equidistant one of `cv2.fisheye`.
        coefficients: k1 k2 p1 p2 [k3 [k4 k5 k6 [s1 s2 s3 s4 [tx ty]]]] of the first, k1 k2 k3 k4 of the second. They
            are in normalised coordinates: the same at any resolution.
        keep: how much of the field `undistorted` keeps: "valid", all that a pinhole shows without a pixel that the
            camera did not see, up to 120 degrees a side; "all" that the camera saw, up to 150; or a horizontal field of
            view in degrees, up to 120.
    """

    fx_px: float
    fy_px: float
    cx_px: float
    cy_px: float
    image_hw: tuple[int, int]
    model: str
    coefficients: tuple[float, ...]
    keep: str | float = VALID

    def __post_init__(self) -> None:
        camera = Intrinsics(self.fx_px, self.fy_px, self.cx_px, self.cy_px, self.image_hw)
        for name in ("fx_px", "fy_px", "cx_px", "cy_px"):
            object.__setattr__(self, name, getattr(camera, name))
        object.__setattr__(self, "image_hw", size_hw("image_hw", self.image_hw, max_side=_MAX_SIDE_PX))
        if not principal_point_inside(camera):
            raise ConfigError(
                f"the principal point cx={self.cx_px:g}, cy={self.cy_px:g} lies outside of the image of {self._size}; "
                "give the size of the calibrated image"
            )
        object.__setattr__(self, "coefficients", checked_coefficients(self.model, self.coefficients))
        if self.keep not in (VALID, ALL):
            degrees = number(self.keep)
            if not 1 <= degrees <= _WIDEST_DEG:
                raise ConfigError(
                    f"keep is {VALID!r}, {ALL!r} or a horizontal field of view from 1 to {_WIDEST_DEG:g} degrees, got "
                    f"{shown(self.keep)}"
                )
            object.__setattr__(self, "keep", degrees)

    @classmethod
    def from_opencv(
        cls,
        matrix: npt.ArrayLike,
        coefficients: npt.ArrayLike,
        image_hw: tuple[int, int],
        *,
        model: str = BROWN_CONRADY,
        keep: str | float = VALID,
    ) -> DistortedCamera:
        """From what `cv2.calibrateCamera` or `cv2.fisheye.calibrate` gives, whose first pixel's centre is (0, 0).

        Args:
            matrix: 3x3 K in pixels, without skew.
            coefficients: of any shape.
            image_hw: (H, W), OpenCV's `imageSize` the other way round.
            model: "brown-conrady", or "fisheye" for `cv2.fisheye`.
            keep: as the attribute.

        Raises:
            ConfigError: a matrix that is none of a camera, or what the attributes refuse.
        """
        try:
            k = Intrinsics.from_matrix(torch.from_numpy(np.array(matrix, dtype=np.float64)), image_hw)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"an intrinsics matrix is 3x3, got {shown(matrix)}") from error
        given = checked_coefficients(model, coefficients)
        return cls(k.fx_px, k.fy_px, k.cx_px + 0.5, k.cy_px + 0.5, image_hw, model, given, keep)

    def resized(self, image_hw: tuple[int, int]) -> DistortedCamera:
        """The same camera after its whole image is resized to `image_hw`; ConfigError for another aspect ratio."""
        hw = size_hw("image_hw", image_hw, max_side=_MAX_SIDE_PX)
        if not same_aspect(hw, self.image_hw):
            raise ConfigError(
                f"the camera's images are of {self._size}, and one of {hw[0]}x{hw[1]} is none of them at another "
                "resolution; give whole images of the calibrated camera"
            )
        k = self._calibrated.resized(hw)
        return replace(self, fx_px=k.fx_px, fy_px=k.fy_px, cx_px=k.cx_px, cy_px=k.cy_px, image_hw=hw)

    @cached_property
    def intrinsics(self) -> Intrinsics:
        """The pinhole camera of undistorted images of `image_hw`.

        Raises:
            ConfigError: OpenCV is not installed, the model folds over within the field to keep, or no pinhole can hold
                all of the field.
        """
        if self.keep == ALL:
            return self._of_all()
        return self._of_what_is_seen() if self.keep == VALID else self._of_field(float(self.keep))

    @property
    def valid(self) -> npt.NDArray[np.bool_]:
        """(H, W) bool, which pixels of an undistorted image the camera saw; the others are black."""
        return self._maps[2]

    def undistorted(self, image: ImageLike) -> npt.NDArray[np.uint8]:
        """A photo as the pinhole camera `intrinsics` takes it.

        Args:
            image: (H, W, 3) uint8 RGB of the size `image_hw`, or of another with the same aspect ratio.

        Returns:
            (H, W, 3) uint8 of the photo's own size; its camera is `intrinsics.resized((H, W))`. Bilinear between
            pixels, and the mean of several places where pixels are larger than the photo's.

        Raises:
            ConfigError: no such photo, or what `intrinsics` refuses.
        """
        pixels = photo_pixels(image)
        hw = (pixels.shape[0], pixels.shape[1])
        if hw != self.image_hw:
            return _at_size(self, hw).undistorted(pixels)
        cv2, (columns, rows, valid) = self._lens.opencv, self._maps
        found = cv2.remap(
            np.ascontiguousarray(pixels), columns, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
        )
        if columns.shape != hw:
            found = cv2.resize(found, hw[::-1], interpolation=cv2.INTER_AREA)
        if self.keep != VALID:
            found[~valid] = 0
        undistorted: npt.NDArray[np.uint8] = found
        return undistorted

    def redistorted(self, depth_m: Tensor | npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.float32]:
        """Depth of an undistorted image at the pixels of the camera's own image. Depth along the optical axis stays.

        Args:
            depth_m: (h, w), of an undistorted image at any resolution.

        Returns:
            (H, W) float32 of size `image_hw`: the depth of the pixel that shows the same ray, 0 where none does.

        Raises:
            ConfigError: not two-dimensional, of another aspect ratio, or what `intrinsics` refuses.
        """
        depth = np.asarray(depth_m.detach().cpu() if isinstance(depth_m, Tensor) else depth_m)
        if depth.ndim != 2 or not depth.size or depth.dtype.kind != "f" or not same_aspect(depth.shape, self.image_hw):
            raise ConfigError(
                f"depth of an undistorted image is floating (H, W) of the aspect ratio of {self._size}, got "
                f"{depth.dtype} of shape {depth.shape}"
            )
        (rows, columns), (height, width), (h, w) = self._places, self.image_hw, depth.shape
        there = ~np.isnan(rows)
        found = np.zeros(self.image_hw, np.float32)
        found[there] = depth[(rows[there] * h / height).astype(np.intp), (columns[there] * w / width).astype(np.intp)]
        return found

    @property
    def _calibrated(self) -> Intrinsics:
        return Intrinsics(self.fx_px, self.fy_px, self.cx_px, self.cy_px, self.image_hw)

    @property
    def _size(self) -> str:
        return f"{self.image_hw[0]}x{self.image_hw[1]} pixels (HxW)"

    @cached_property
    def _lens(self) -> LensModel:
        return LensModel(self._calibrated, self.model, self.coefficients)

    def _scaled(self, scale: float) -> Intrinsics:
        return Intrinsics(self.fx_px * scale, self.fy_px * scale, self.cx_px, self.cy_px, self.image_hw)

    def _of_field(self, degrees: float) -> Intrinsics:
        camera = self._scaled(_smallest(lambda scale: self._scaled(scale).field_of_view_deg()[1] <= degrees))
        furthest = max(self.cx_px, self.image_hw[1] - self.cx_px) / camera.fx_px
        if not self._lens.holds_for(np.array([furthest, 0.0])):
            raise self._folds(f"a field of view of {degrees:g} degrees")
        return camera

    def _of_what_is_seen(self) -> Intrinsics:
        scale = _smallest(self._sees_all_of)
        if (
            not math.isfinite(scale)
            or not self._lens.holds_for(_rays_of(_border(self.image_hw), self._scaled(scale * (1 - 1e-6)))).all()
        ):
            raise self._folds("the image")
        return self._scaled(scale)

    def _sees_all_of(self, scale: float) -> bool:
        """Whether the border of the pinhole image lies in the camera's, before the fold; what it encloses then does."""
        pinhole = self._scaled(scale)
        rays, (height, width) = _rays_of(_border(self.image_hw), pinhole), self.image_hw
        if max(pinhole.field_of_view_deg()) > _WIDEST_DEG or not self._lens.holds_for(rays).all():
            return False
        pixels = self._lens.project(rays)
        return bool(((pixels >= -1e-6) & (pixels <= np.array([width, height]) + 1e-6)).all())

    def _of_all(self) -> Intrinsics:
        rays, (height, width) = self._lens.rays(_border(self.image_hw)), self.image_hw
        if np.isnan(rays).any():
            raise self._folds("all of the image")
        centre, focal = np.array([self.cx_px, self.cy_px]), np.array([self.fx_px, self.fy_px])
        with np.errstate(divide="ignore"):
            room = np.where(rays > 0, np.array([width, height]) - centre, centre) / (focal * np.abs(rays))
        camera = self._scaled(float(room.min()))
        widest = max(camera.field_of_view_deg())
        if widest > _WIDEST_WHOLE_DEG:
            raise ConfigError(
                f"to keep all of the image a pinhole would need a field of view of {widest:.0f} degrees; at most "
                f"{_WIDEST_WHOLE_DEG:g} are made: keep {VALID!r} or a horizontal field of up to {_WIDEST_DEG:g} degrees"
            )
        return camera

    def _folds(self, needs: str) -> ConfigError:
        fold = self._lens.fold_deg
        if fold >= NO_FOLD_DEG:
            return ConfigError(
                f"the camera sees 90 degrees from its optical axis and more, which no pinhole shows, and {needs} needs "
                f"that: keep {VALID!r} or a horizontal field of up to {_WIDEST_DEG:g} degrees"
            )
        return ConfigError(
            f"{self.model} distortion with the coefficients {self.coefficients} holds up to {fold:.1f} degrees from "
            "the optical axis and folds over there (what is further out comes back to the middle), and "
            f"{needs} needs more. Check the coefficients, their order and the image size, or keep a horizontal field "
            f"of view of less than {2 * fold:.0f} degrees (keep=)"
        )

    @cached_property
    def _maps(self) -> tuple[Map, Map, npt.NDArray[np.bool_]]:
        """Where in the photo each pixel of the undistorted image lies, as OpenCV counts, and whether it is there."""
        pinhole, (height, width) = self.intrinsics, self.image_hw
        columns, rows = self._lens.maps(pinhole)
        valid = self._lens.holds_for(_rays_of(_centres(self.image_hw), pinhole))
        for places, side in ((columns, width), (rows, height)):
            valid &= np.abs(places + 0.5 - side / 2) <= side / 2 + _EDGE_PX
        # Where pixels are larger than the photo's, several places in each of them: else fine texture would alias.
        steps = [np.abs(np.diff(columns, axis=1))[valid[:, 1:]], np.abs(np.diff(rows, axis=0))[valid[1:]]]
        samples = min(_MOST_SAMPLES, round(max((float(step.max()) for step in steps if step.size), default=1.0)))
        if samples > 1:
            columns, rows = self._lens.maps(pinhole.resized((samples * height, samples * width)))
        valid.setflags(write=False)
        return columns, rows, valid

    @cached_property
    def _places(self) -> tuple[Array, Array]:
        """(H, W) rows and columns in the undistorted image of what the camera's pixels show; NaN where it is not there.
        Found at nodes, and linear in between."""
        pinhole, (height, width) = self.intrinsics, self.image_hw
        down, across = (np.linspace(0, side, 1 + min(side, _NODES)) for side in (height, width))
        nodes = np.stack(np.meshgrid(across, down), axis=-1)
        rays = self._lens.rays(nodes.reshape(-1, 2)).reshape(nodes.shape)
        at = rays * [pinhole.fx_px, pinhole.fy_px] + [pinhole.cx_px, pinhole.cy_px]
        for axis, side in enumerate(self.image_hw):
            place = (np.arange(side) + 0.5) * ((at.shape[axis] - 1) / side)
            before = np.floor(place).astype(np.intp)
            weight = (place - before).reshape((-1, 1, 1) if axis == 0 else (-1, 1))
            at = at.take(before, axis) * (1 - weight) + at.take(before + 1, axis) * weight
        with np.errstate(invalid="ignore"):
            at[~((at >= 0) & (at < [width, height])).all(axis=-1)] = np.nan
        return at[..., 1], at[..., 0]


@lru_cache(maxsize=4)
def _at_size(camera: DistortedCamera, image_hw: tuple[int, int]) -> DistortedCamera:
    """The same camera again for photos of the same size, so that its maps are made once."""
    return camera.resized(image_hw)


def _smallest(holds: Callable[[float], bool]) -> float:
    """The smallest scale that `holds`, as all larger ones do; infinite if none does."""
    low, high = 2.0**-12, 2.0**12
    if not holds(high):
        return math.inf
    for _ in range(60):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high


def _border(image_hw: tuple[int, int]) -> Array:
    """(N, 2) places around an image, corner convention, at the same fractions of its sides whatever its size."""
    height, width = image_hw
    along = np.linspace(0.0, 1.0, _BORDER_PLACES + 1)
    ends = [(along, 0 * along), (along, 0 * along + 1), (0 * along, along), (0 * along + 1, along)]
    return np.concatenate([np.stack([x * width, y * height], axis=-1) for x, y in ends])


def _centres(image_hw: tuple[int, int]) -> Array:
    """(H, W, 2) x and y of pixel centres."""
    height, width = image_hw
    return np.stack(np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5), axis=-1)


def _rays_of(pixels: Array, camera: Intrinsics) -> Array:
    """(…, 2) x/z and y/z of pixels of a pinhole camera."""
    rays: Array = (pixels - [camera.cx_px, camera.cy_px]) / [camera.fx_px, camera.fy_px]
    return rays
