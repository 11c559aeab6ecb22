"""How a host makes its tower's image out of the camera's: stretch, crop, pad or tile; and the way back.

A host shows its tower another image than the camera took, so pixels and intrinsics of the one are not those of the
other. `ImageMapping` says where each pixel goes, and brings depth back to the camera.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from spaceclip_plugin._checks import choice, integer, size_hw
from spaceclip_plugin.depth.camera import Intrinsics
from spaceclip_plugin.depth.resampling import AxisPlaces, Places
from spaceclip_plugin.errors import ConfigError

if TYPE_CHECKING:
    from spaceclip_plugin.depth.depth_map import DepthMap

Anchor = Literal["centre", "bottom-right", "top-left"]
"""Where the camera's image lies in a padded one; "bottom-right" means padding on the left and on the top."""

_LARGEST_SIDE_PX = 1 << 16
_ANCHORS: dict[str, float] = {"centre": 0.5, "bottom-right": 1.0, "top-left": 0.0}


@dataclass(frozen=True)
class ImageMapping:
    """Where the tower's pixels come from: `tower = scale * camera + offset` along each axis.

    Pixel coordinates are in the corner convention of `Intrinsics`: the centre of the first pixel is (0.5, 0.5). The
    constructors are named by what hosts do. They take the camera's size as the host gets it.

    Attributes:
        camera_hw: size of the camera's image, (H, W) pixels.
        tower_hw: size of the tower's image, (H, W) pixels.
        scale_x, scale_y: tower pixels per camera pixel.
        offset_x, offset_y: the tower's pixel coordinates of the camera image's upper left corner.
        shown: (top, left, bottom, right) of the part of the tower's image that shows the camera's, in tower pixels; the
            rest is padding. Empty (top = bottom or left = right) where a tile is all padding.

    Raises:
        ConfigError: a size or a scale that is not positive, a value that is not finite, `shown` beyond the image.
    """

    camera_hw: tuple[int, int]
    tower_hw: tuple[int, int]
    scale_x: float
    scale_y: float
    offset_x: float
    offset_y: float
    shown: tuple[float, float, float, float]

    def __post_init__(self) -> None:
        for name in ("camera_hw", "tower_hw"):
            _check_size(name, getattr(self, name))
            object.__setattr__(self, name, size_hw(name, getattr(self, name)))
        numbers = (self.scale_x, self.scale_y, self.offset_x, self.offset_y)
        if not all(map(math.isfinite, numbers)) or min(self.scale_x, self.scale_y) <= 0:
            raise ConfigError(f"a mapping needs positive scales and finite offsets, got {numbers}")
        top, left, bottom, right = self.shown
        if not (0 <= top <= bottom <= self.tower_hw[0] and 0 <= left <= right <= self.tower_hw[1]):
            raise ConfigError(
                f"shown is (top, left, bottom, right) inside an image {_shown(self.tower_hw)}, got {self.shown}"
            )

    @classmethod
    def squashed(cls, camera_hw: tuple[int, int], tower_hw: tuple[int, int]) -> ImageMapping:
        """Stretched to the tower's size: SigLIP, `data.preparation`, thumbnails, Qwen-VL, InternVL.

        Raises:
            ConfigError: an impossible size.
        """
        _check_size("camera_hw", camera_hw)
        _check_size("tower_hw", tower_hw)
        scale_y, scale_x = (tower_hw[i] / camera_hw[i] for i in (0, 1))
        return cls(camera_hw, tower_hw, scale_x, scale_y, 0.0, 0.0, (0.0, 0.0, float(tower_hw[0]), float(tower_hw[1])))

    @classmethod
    def centre_cropped(
        cls,
        camera_hw: tuple[int, int],
        tower_hw: tuple[int, int],
        *,
        resize_short: int | None = None,
        rounding: Literal["down", "half-even"] = "down",
    ) -> ImageMapping:
        """Shorter side resized, then the middle cut out: CLIP.

        Args:
            camera_hw: of the camera's image.
            tower_hw: of the crop.
            resize_short: length of the shorter side after resizing (`size.shortest_edge`), where it is not that of the
                crop.
            rounding: of half a pixel of margin: "down" as transformers' processors do by now, "half-even" as
                torchvision's `CenterCrop` does, and with it open_clip and timm.

        Raises:
            ConfigError: an impossible size, or the resized image is smaller than the crop.
        """
        _check_size("camera_hw", camera_hw)
        _check_size("tower_hw", tower_hw)
        short = min(tower_hw) if resize_short is None else integer("resize_short", resize_short, 1, _LARGEST_SIDE_PX)
        choice("rounding", rounding, ("down", "half-even"))
        height, width = camera_hw
        resized_hw = (short, int(short * width / height)) if height <= width else (int(short * height / width), short)
        margins = [resized_hw[i] - tower_hw[i] for i in (0, 1)]
        if min(margins) < 0:
            raise ConfigError(
                f"the image {_shown(camera_hw)}, resized to {_shown(resized_hw)}, is smaller than the crop "
                f"{_shown(tower_hw)}; give the length of the shorter side as resize_short"
            )
        top, left = (margin // 2 if rounding == "down" else round(margin / 2) for margin in margins)
        return cls.squashed(camera_hw, resized_hw).cropped(top, left, tower_hw)

    @classmethod
    def padded(
        cls,
        camera_hw: tuple[int, int],
        tower_hw: tuple[int, int],
        *,
        anchor: Anchor = "centre",
        rounding: Literal["down", "up"] = "down",
    ) -> ImageMapping:
        """Resized with its aspect ratio until it fits, the rest filled up.

        "centre" is what pi0 and its kin do (`resize_with_pad_torch`), "bottom-right" SmolVLA and X-VLA
        (`resize_with_pad`). Hosts that pad to a square before they resize (LLaVA 1.5, OpenVLA's letterbox):
        `padded(camera_hw, (side, side)).compose(squashed((side, side), tower_hw))` with the longer side.

        Args:
            camera_hw: of the camera's image.
            tower_hw: of the image with its padding.
            anchor: where the camera's image lies; an odd pixel of padding goes to the right or the bottom.
            rounding: of the resized shorter side; LLaVA-NeXT rounds up, LeRobot and openpi down.

        Raises:
            ConfigError: an impossible size, or one side would shrink to nothing.
        """
        _check_size("camera_hw", camera_hw)
        _check_size("tower_hw", tower_hw)
        choice("anchor", anchor, _ANCHORS)
        choice("rounding", rounding, ("down", "up"))
        if rounding == "down":
            # The hosts' own float arithmetic: another order of it would be a pixel off at some sizes.
            ratio = max(camera_hw[1] / tower_hw[1], camera_hw[0] / tower_hw[0])
            rows, columns = (int(side / ratio) for side in camera_hw)
        else:
            factor = min(tower_hw[1] / camera_hw[1], tower_hw[0] / camera_hw[0])
            rows, columns = (min(math.ceil(camera_hw[i] * factor), tower_hw[i]) for i in (0, 1))
        if min(rows, columns) < 1:
            raise ConfigError(f"an image {_shown(camera_hw)} has no pixel left when it fits into {_shown(tower_hw)}")
        top, left = (int(_ANCHORS[anchor] * (tower_hw[i] - (rows, columns)[i])) for i in (0, 1))
        return cls.squashed(camera_hw, (rows, columns)).cropped(-top, -left, tower_hw)

    def cropped(self, top: int, left: int, tower_hw: tuple[int, int]) -> ImageMapping:
        """The mapping to a window of size `tower_hw` at (top, left) of the tower's image; what lies beyond is padding.

        Raises:
            ConfigError: an impossible size.
        """
        _check_size("tower_hw", tower_hw)
        edges = zip(self.shown, (top, left) * 2, tower_hw * 2, strict=True)
        top_shown, left_shown, bottom_shown, right_shown = (
            min(max(edge - start, 0.0), float(side)) for edge, start, side in edges
        )
        return dataclasses.replace(
            self,
            tower_hw=tower_hw,
            offset_x=self.offset_x - left,
            offset_y=self.offset_y - top,
            shown=(top_shown, left_shown, bottom_shown, right_shown),
        )

    def clipped(self, part: tuple[float, float, float, float]) -> ImageMapping:
        """The mapping with no more shown than lies in the (top, left, bottom, right) of the tower's image."""
        low, high = part[:2] * 2, part[2:] * 2
        top, left, bottom, right = (min(max(edge, low[i]), high[i]) for i, edge in enumerate(self.shown))
        shown = (top, left, bottom, right)
        return self if shown == self.shown else dataclasses.replace(self, shown=shown)

    def tiles(self, tile_hw: tuple[int, int]) -> tuple[ImageMapping, ...]:
        """One mapping for each tile the tower's image is cut into, row by row: InternVL, Idefics, LLaVA-NeXT.

        The mapping tiled is that to all tiles together: `squashed` for InternVL and Idefics, `padded` with
        `rounding="up"` for LLaVA-NeXT. Their thumbnail is a `squashed` image of its own.

        Raises:
            ConfigError: tiles of that size do not fill the image.
        """
        _check_size("tile_hw", tile_hw)
        (height, width), (rows, columns) = self.tower_hw, tile_hw
        if height % rows or width % columns:
            raise ConfigError(
                f"an image {_shown(self.tower_hw)} cannot be cut into whole tiles {_shown(tile_hw)}; give the size of "
                "all tiles together as tower_hw"
            )
        corners = [(top, left) for top in range(0, height, rows) for left in range(0, width, columns)]
        return tuple(self.cropped(top, left, tile_hw) for top, left in corners)

    def compose(self, later: ImageMapping) -> ImageMapping:
        """This mapping, then another one, whose camera image is this one's tower image.

        Raises:
            ConfigError: it is of another size.
        """
        if later.camera_hw != self.tower_hw:
            raise ConfigError(
                f"a mapping to {_shown(self.tower_hw)} cannot be followed by one from {_shown(later.camera_hw)}"
            )
        steps = ((later.scale_y, later.offset_y), (later.scale_x, later.offset_x)) * 2
        low, high = later.shown[:2] * 2, later.shown[2:] * 2
        top, left, bottom, right = (
            min(max(scale * edge + offset, low[i]), high[i])
            for i, (edge, (scale, offset)) in enumerate(zip(self.shown, steps, strict=True))
        )
        return ImageMapping(
            self.camera_hw,
            later.tower_hw,
            self.scale_x * later.scale_x,
            self.scale_y * later.scale_y,
            self.offset_x * later.scale_x + later.offset_x,
            self.offset_y * later.scale_y + later.offset_y,
            (top, left, bottom, right),
        )

    def tower_pixels(self, camera_uv: Tensor) -> Tensor:
        """Where points of the camera's image lie in the tower's, inside or beyond it.

        Args:
            camera_uv: (..., 2) floating point, (u right, v down) in camera pixels.

        Returns:
            (..., 2) in tower pixels.

        Raises:
            ConfigError: not such a tensor.
        """
        scale, offset = self._affine(camera_uv)
        return camera_uv * scale + offset

    def camera_pixels(self, tower_uv: Tensor) -> Tensor:
        """Where points of the tower's image lie in the camera's: the inverse of `tower_pixels`.

        Args:
            tower_uv: (..., 2) floating point, (u right, v down) in tower pixels.

        Returns:
            (..., 2) in camera pixels.

        Raises:
            ConfigError: not such a tensor.
        """
        scale, offset = self._affine(tower_uv)
        return (tower_uv - offset) / scale

    def to_tower(self, intrinsics: Intrinsics) -> Intrinsics:
        """Intrinsics of the tower's image from those of the camera's, given at any resolution of the whole image.

        Raises:
            ConfigError: they are of an image of another aspect ratio than the camera's.
        """
        camera = _of_image(intrinsics, self.camera_hw, "camera")
        return Intrinsics(
            camera.fx_px * self.scale_x,
            camera.fy_px * self.scale_y,
            camera.cx_px * self.scale_x + self.offset_x,
            camera.cy_px * self.scale_y + self.offset_y,
            self.tower_hw,
        )

    def to_camera(self, intrinsics: Intrinsics) -> Intrinsics:
        """Intrinsics of the camera's image from those of the tower's, given at any resolution of the whole image.

        Raises:
            ConfigError: they are of an image of another aspect ratio than the tower's.
        """
        tower = _of_image(intrinsics, self.tower_hw, "tower")
        return Intrinsics(
            tower.fx_px / self.scale_x,
            tower.fy_px / self.scale_y,
            (tower.cx_px - self.offset_x) / self.scale_x,
            (tower.cy_px - self.offset_y) / self.scale_y,
            self.camera_hw,
        )

    def valid_tower_pixels(self, size: tuple[int, int] | None = None) -> Tensor:
        """Which pixels of the tower's image show the camera's: False for padding.

        Args:
            size: (h, w) of the mask over the whole tower image; the tower's own size if None.

        Returns:
            (h, w) bool; True where a pixel's centre is shown.

        Raises:
            ConfigError: an impossible size.
        """
        rows, columns = self._shown_along(self.tower_hw if size is None else size)
        return rows[:, None] & columns

    def to_camera_depth(self, depth_map: DepthMap, *, size: tuple[int, int] | None = None) -> DepthMap:
        """The same depth over the camera's image.

        It is interpolated within surfaces and never between them; see `depth_resampling`.

        Args:
            depth_map: of the tower's image, at any resolution.
            size: (H, W) of the result; that of the camera's image if None.

        Returns:
            A depth map whose `image_hw` is the camera's. What the host cropped away is not `valid`.

        Raises:
            ConfigError: the depth map is of an image of another size than the tower's, or of several, or an
                impossible size.
        """
        _check_size("size", self.camera_hw if size is None else size)
        if depth_map.image_sizes is not None or tuple(depth_map.image_hw) != tuple(self.tower_hw):
            raise ConfigError(
                f"the mapping is to a tower image {_shown(self.tower_hw)}, the depth map is of "
                f"{_shown(depth_map.image_hw)}{' and several sizes' if depth_map.image_sizes else ''}; give the "
                "mapping of this view (of a batch of several sizes, one of each: depth[i])"
            )
        height, width = depth_map.depth_m.shape[1:]
        known = depth_map.valid & self.valid_tower_pixels((height, width)).to(depth_map.valid.device)
        places = self._places(self.camera_hw if size is None else size, depth_map.depth_m)
        smooth = places.on_one_surface(depth_map.depth_m, known)
        valid = places.nearest(known) & places.shown
        return dataclasses.replace(
            depth_map,
            depth_m=places.either(depth_map.depth_m, smooth) * valid,
            valid=valid,
            uncertainty_m=None if (sd := depth_map.uncertainty_m) is None else places.either(sd, smooth) * valid,
            image_hw=self.camera_hw,
        )

    def without_padding(self, values: Tensor) -> Tensor:
        """(B, H, W) maps of the tower's image, 0 or False in the padding; the maps themselves where there is none."""
        if self.shown == (0, 0, *self.tower_hw):
            return values
        rows, columns = (line.to(values.device) for line in self._shown_along((values.shape[1], values.shape[2])))
        return torch.where(rows[:, None] & columns, values, torch.zeros((), dtype=values.dtype, device=values.device))

    def _shown_along(self, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """(h,) and (w,) bool: which rows and columns of a mask of that size have their centre in what is shown."""
        _check_size("size", size)
        lines = []
        for axis in (0, 1):
            centres = (torch.arange(size[axis], dtype=torch.float64) + 0.5) * (self.tower_hw[axis] / size[axis])
            lines.append((centres >= self.shown[axis]) & (centres < self.shown[axis + 2]))
        return lines[0], lines[1]

    def _affine(self, uv: Tensor) -> tuple[Tensor, Tensor]:
        if not isinstance(uv, Tensor) or uv.shape[-1:] != (2,) or not uv.is_floating_point():
            given = f"{uv.dtype} of shape {tuple(uv.shape)}" if isinstance(uv, Tensor) else type(uv).__name__
            raise ConfigError(f"pixels are a floating-point tensor (..., 2) of u (right) and v (down), got {given}")
        return uv.new_tensor([self.scale_x, self.scale_y]), uv.new_tensor([self.offset_x, self.offset_y])

    def _places(self, hw: tuple[int, int], depth_m: Tensor) -> Places:
        """Where the pixels of a camera image of size `hw` lie in a depth map of the tower's image."""
        axes = []
        for axis, (scale, offset) in enumerate(((self.scale_y, self.offset_y), (self.scale_x, self.offset_x))):
            centres = (torch.arange(hw[axis], dtype=torch.float64) + 0.5) * (self.camera_hw[axis] / hw[axis])
            place = scale * centres + offset
            shown = (place >= self.shown[axis]) & (place < self.shown[axis + 2])
            count = depth_m.shape[axis + 1]
            axes.append(AxisPlaces.at(place * (count / self.tower_hw[axis]), shown, count=count, like=depth_m))
        return Places(*axes)


def _of_image(intrinsics: Intrinsics, hw: tuple[int, int], whose: str) -> Intrinsics:
    """The intrinsics at size `hw`, if they are of an image of that aspect ratio, a pixel of rounding aside."""
    (height, width), (rows, columns) = hw, intrinsics.image_hw
    off_px = min(abs(columns - rows * width / height), abs(rows - columns * height / width))
    if off_px > 1:
        raise ConfigError(
            f"intrinsics of an image {_shown(intrinsics.image_hw)} are not those of the {whose}'s image "
            f"{_shown(hw)} at any resolution; give those of the whole image"
        )
    return intrinsics if tuple(intrinsics.image_hw) == tuple(hw) else intrinsics.resized(hw)


def _check_size(name: str, hw: tuple[int, int]) -> None:
    if not isinstance(hw, tuple):
        raise ConfigError(f"{name} is (height, width) of at least 1x1 pixels, a tuple, got {hw!r}")
    size_hw(name, hw)


def _shown(hw: tuple[int, int]) -> str:
    return f"{hw[0]}x{hw[1]} (HxW)"
