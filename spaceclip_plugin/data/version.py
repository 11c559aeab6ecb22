"""One version of a photo: turned, cropped, mirrored and recoloured, with its depth and its intrinsics."""

from __future__ import annotations

import dataclasses
import itertools
import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageEnhance, ImageStat

from spaceclip_plugin.depth import ImageMapping, Intrinsics
from spaceclip_plugin.errors import ConfigError

_SQUARE_WITHIN = 0.01
_LEVELS = Image.frombytes("L", (256, 1), bytes(range(256)))
"""Every value of a pixel once: what is made of it says what is made of any image."""


@dataclass(frozen=True, slots=True)
class Version:
    """One version of a photo; the defaults are the photo itself.

    The photo is turned first, then cropped, mirrored and recoloured.

    Attributes:
        top, left, height, width: what is seen of the (turned) photo, as fractions of its height and width.
        mirrored: whether left and right are swapped, after the crop.
        rotation_deg: how far the picture is turned counter-clockwise about its centre, in degrees: the camera rolls
            clockwise.
        photo_aspect: width of the photo over its height in pixels, for a rotation of depth that is stretched against
            the photo; None: the depth has the photo's aspect.
        gamma: exponent of the pixels' values, between 0 and 1.
        brightness, contrast, saturation: factors, in that order after gamma, as Pillow's ImageEnhance takes them.
        gains: factors of red, green and blue, at last.

    Example:
        >>> import numpy as np
        >>> from spaceclip_plugin.data import Version
        >>> photo, depth_m = np.zeros((8, 12, 3), np.uint8), np.full((8, 12), 2.0, np.float32)
        >>> half = Version(top=0.25, left=0.25, height=0.5, width=0.5, mirrored=True)
        >>> half.image(photo).shape, float(half.target(depth_m, (4, 6)).max())
        ((4, 6, 3), 1.0)
    """

    top: float = 0.0
    left: float = 0.0
    height: float = 1.0
    width: float = 1.0
    mirrored: bool = False
    rotation_deg: float = 0.0
    photo_aspect: float | None = None
    gamma: float = 1.0
    brightness: float = 1.0
    contrast: float = 1.0
    saturation: float = 1.0
    gains: tuple[float, float, float] = (1.0, 1.0, 1.0)

    @property
    def scale(self) -> float:
        """Side of the crop relative to the photo's (geometric mean of both sides)."""
        return math.sqrt(self.height * self.width)

    def image_hw(self, image_hw: tuple[int, int]) -> tuple[int, int]:
        """(h, w) pixels of the version of a photo of (H, W)."""
        return self._box(*image_hw)[2:]

    def image(self, image: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """The version of a photo.

        Args:
            image: (H, W, 3) uint8 RGB.

        Returns:
            (h, w, 3) uint8, the crop in its own pixels. A rotation interpolates (bilinear), and where it looks beyond
            the photo, the photo's edge goes on: no tower meets black corners at work.
        """
        top, left, height, width = box = self._box(image.shape[0], image.shape[1])
        seen = self._turned(image, box) if self.rotation_deg else image[top : top + height, left : left + width]
        return self._recoloured(np.ascontiguousarray(seen[:, ::-1] if self.mirrored else seen))

    def target(
        self, depth_m: npt.NDArray[np.float32], hw: tuple[int, int], *, mapping: ImageMapping | None = None
    ) -> npt.NDArray[np.float32]:
        """The depth that belongs to `image`, or to what a tower is shown of it.

        A crop fills the tower's input like a whole image: to a head that takes every image to be of one focal length,
        zooming in by 1/s makes everything look s times as far. Metres are scaled by `scale` for that reason (focal
        canonicalisation: Yin et al., "Metric3D", 2023, section 3.2). A rotation is about the optical axis and leaves
        them as they are.

        True points are those of `target(...) / scale` with `intrinsics(...)`. The target itself goes with the photo's
        focal lengths, on the crop resized to the photo's size: its points have the true x and y, and `scale` times the
        true z. (A crop of another aspect than the photo's also stretches x by sqrt(height / width) and y by the
        inverse.)

        Args:
            depth_m: (H, W) metres of the whole photo, at any resolution; 0 where unknown, infinite where nothing is.
            hw: size of the result in pixels.
            mapping: how a tower's image is made out of `image`; the result is then over the tower's image, and in its
                padding unknown. None: it is over `image`.

        Returns:
            (h, w) float32 metres of size `hw`, each that of the nearest pixel, or of a known one within the same cell
            where that is unknown (sparse depth, made smaller, would lose most of it); 0 where all are. What a rotation
            brings in from beyond the photo is unknown.
        """
        if mapping is not None and not mapping.stretches:
            return self._tower_target(depth_m, hw, mapping)
        a, b, _, d, e, _ = self._depth_lookup((depth_m.shape[0], depth_m.shape[1]), hw)
        cells = math.ceil(max(abs(a) + abs(b), abs(d) + abs(e)))  # enough that no pixel lies between the places
        seen = self._sampled(depth_m, hw, 0.5, 0.5)
        for place in itertools.product((np.arange(cells) + 0.5) / cells, repeat=2):
            if seen.all():
                break
            seen = np.where(seen > 0, seen, self._sampled(depth_m, hw, *place))
        if self.mirrored:
            seen = seen[:, ::-1]
        target: npt.NDArray[np.float32] = seen * np.float32(self.scale)
        return target

    def intrinsics(self, intrinsics: Intrinsics) -> Intrinsics:
        """The camera of `image`, in that image's own pixels; see `target` for the depth that goes with it.

        A point (x, y, z) of the photo's camera frame is, with t = `rotation_deg`, at (cos t x + sin t y,
        cos t y - sin t x, z) in this one's, its x then negated where `mirrored`.

        Args:
            intrinsics: of the photo, at the size that `image` is given.

        Raises:
            ConfigError: the photo is turned and its pixels are not square (focal lengths more than 1 % apart).
        """
        height, width = intrinsics.image_hw
        seen = intrinsics
        if self.rotation_deg:
            if abs(intrinsics.fx_px - intrinsics.fy_px) > _SQUARE_WITHIN * max(intrinsics.fx_px, intrinsics.fy_px):
                raise ConfigError(
                    f"a photo turned by {self.rotation_deg} degrees has intrinsics without skew only if its pixels are "
                    f"square, got fx={intrinsics.fx_px} and fy={intrinsics.fy_px}; resize the photo until they agree, "
                    "or do not turn it"
                )
            cos, sin = self._turn()
            right, down = intrinsics.cx_px - 0.5 * width, intrinsics.cy_px - 0.5 * height
            cx_px, cy_px = 0.5 * width + cos * right + sin * down, 0.5 * height + cos * down - sin * right
            seen = dataclasses.replace(seen, cx_px=cx_px, cy_px=cy_px)
        top, left, rows, columns = self._box(height, width)
        seen = seen.cropped(top, left, (rows, columns))
        return dataclasses.replace(seen, cx_px=columns - seen.cx_px) if self.mirrored else seen

    def _tower_target(
        self, depth_m: npt.NDArray[np.float32], hw: tuple[int, int], mapping: ImageMapping
    ) -> npt.NDArray[np.float32]:
        """`target` over a tower's image: that of a version which sees just as much, and of it what is shown."""
        (height, width), (rows, columns) = mapping.camera_hw, mapping.tower_hw
        top, left = -mapping.offset_y / mapping.scale_y / height, -mapping.offset_x / mapping.scale_x / width
        tall, wide = rows / mapping.scale_y / height, columns / mapping.scale_x / width
        seen = dataclasses.replace(
            self,
            top=self.top + top * self.height,
            left=self.left + (1 - left - wide if self.mirrored else left) * self.width,
            height=tall * self.height,
            width=wide * self.width,
        )
        shown = mapping.valid_tower_pixels(hw).numpy()
        target: npt.NDArray[np.float32] = np.where(
            shown, seen.target(depth_m, hw) * np.float32(self.scale / seen.scale), np.float32(0)
        )
        return target

    def _box(self, height: int, width: int) -> tuple[int, int, int, int]:
        """(top, left, height, width) of the crop in whole pixels of a photo of that size."""
        top, bottom = round(self.top * height), round((self.top + self.height) * height)
        left, right = round(self.left * width), round((self.left + self.width) * width)
        return top, left, bottom - top, right - left

    def _turn(self) -> tuple[float, float]:
        angle = math.radians(self.rotation_deg)
        return math.cos(angle), math.sin(angle)

    def _depth_lookup(self, depth_hw: tuple[int, int], hw: tuple[int, int]) -> tuple[float, ...]:
        """See `_lookup`, for the version as `hw` cells of a depth map."""
        height, width = depth_hw
        stretch = 1.0 if self.photo_aspect is None else width / height / self.photo_aspect
        box = (self.top * height, self.left * width, self.height * height, self.width * width)
        return self._lookup(depth_hw, box, hw, stretch)

    def _lookup(
        self, whole_hw: tuple[int, int], box: tuple[float, float, float, float], hw: tuple[int, int], stretch: float
    ) -> tuple[float, ...]:
        """Where in a photo the unmirrored version looks, as `hw` cells: (u, v) at (a u + b v + c, d u + e v + f).

        `box` is (top, left, height, width) on the turned photo; `stretch` the height of its pixels over their width.
        """
        cos, sin = self._turn()
        top, left, height, width = box
        tall, wide = height / hw[0], width / hw[1]
        down, right = top - 0.5 * whole_hw[0], left - 0.5 * whole_hw[1]
        return (
            cos * wide,
            -sin * stretch * tall,
            0.5 * whole_hw[1] + cos * right - sin * stretch * down,
            sin / stretch * wide,
            cos * tall,
            0.5 * whole_hw[0] + sin / stretch * right + cos * down,
        )

    def _turned(self, image: npt.NDArray[np.uint8], box: tuple[int, int, int, int]) -> npt.NDArray[np.uint8]:
        """The pixels of `box`, from the turned photo."""
        whole_hw, hw = (image.shape[0], image.shape[1]), (box[2], box[3])
        a, b, c, d, e, f = self._lookup(whole_hw, box, hw, 1.0)
        x = [c + a * u + b * v for u in (0, hw[1]) for v in (0, hw[0])]
        y = [f + d * u + e * v for u in (0, hw[1]) for v in (0, hw[0])]
        beyond = [
            (max(0, math.ceil(-min(places))), max(0, math.ceil(max(places) - size)))
            for places, size in ((y, whole_hw[0]), (x, whole_hw[1]))
        ]
        photo = Image.fromarray(np.pad(image, (*beyond, (0, 0)), mode="edge"))
        lookup = (a, b, c + beyond[1][0], d, e, f + beyond[0][0])
        return np.array(photo.transform(hw[::-1], Image.Transform.AFFINE, lookup, Image.Resampling.BILINEAR))

    def _sampled(
        self, depth_m: npt.NDArray[np.float32], hw: tuple[int, int], down: float, right: float
    ) -> npt.NDArray[np.float32]:
        """The pixels that lie that far into each of the result's cells, not mirrored; 0 beyond the photo."""
        if not self.rotation_deg:
            rows = _nearest(self.top, self.height, hw[0], depth_m.shape[0], down)
            columns = _nearest(self.left, self.width, hw[1], depth_m.shape[1], right)
            return depth_m[rows[:, None], columns]
        a, b, c, d, e, f = self._depth_lookup((depth_m.shape[0], depth_m.shape[1]), hw)
        u, v = right - 0.5, down - 0.5  # Pillow looks at the centres of the cells
        lookup = (a, b, c + a * u + b * v, d, e, f + d * u + e * v)
        photo = Image.fromarray(depth_m)
        return np.asarray(photo.transform(hw[::-1], Image.Transform.AFFINE, lookup, Image.Resampling.NEAREST))

    def _recoloured(self, image: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        if (self.gamma, self.brightness, self.contrast, self.saturation, *self.gains) == (1.0,) * 7:
            return image
        photo = Image.fromarray(image)
        # All but the saturation changes each value by itself: a table of 256 is looked up instead of doing sums.
        if self.gamma != 1.0:
            photo = photo.point([round(255.0 * (level / 255.0) ** self.gamma) for level in range(256)] * 3)
        if self.brightness != 1.0:
            photo = photo.point(_blended(0, self.brightness) * 3)
        if self.contrast != 1.0:
            mean = int(ImageStat.Stat(photo.convert("L")).mean[0] + 0.5)
            photo = photo.point(_blended(mean, self.contrast) * 3)
        if self.saturation != 1.0:
            photo = ImageEnhance.Color(photo).enhance(self.saturation)
        if self.gains != (1.0, 1.0, 1.0):
            gained = np.outer(np.asarray(self.gains, dtype=np.float32), np.arange(256, dtype=np.float32))
            photo = photo.point(np.clip(np.rint(gained), 0, 255).astype(int).ravel().tolist())
        return np.array(photo)


def _blended(level: int, factor: float) -> list[int]:
    """What Pillow makes of every level between it and one level, at 0, and it alone, at 1."""
    return list(Image.blend(Image.new("L", _LEVELS.size, level), _LEVELS, factor).tobytes())


def _nearest(start: float, extent: float, count: int, size: int, place: float) -> npt.NDArray[np.intp]:
    """The pixels, of `size`, that points of `count` cells over [start, start + extent) fall into; 0.5: the centres."""
    centres = (start + extent * (np.arange(count) + place) / count) * size
    # Halving puts every centre on a border between pixels: rounding errors must not choose the side.
    return np.clip(np.floor(centres + 1e-6).astype(np.intp), 0, size - 1)
