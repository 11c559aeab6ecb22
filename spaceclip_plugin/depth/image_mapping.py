"""How a host makes its tower's image out of the camera's: stretch, crop, pad or tile; and the way back."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from spaceclip_plugin._checks import choice, integer, size_hw
from spaceclip_plugin.depth.camera import Intrinsics
from spaceclip_plugin.depth.resampling import AxisPlaces, Places, pixel_centres, within
from spaceclip_plugin.errors import ConfigError

Anchor = Literal["centre", "bottom-right", "top-left"]
"""Where the camera's image lies in a padded one; "bottom-right" means padding on the left and on the top."""

_LARGEST_SIDE_PX = 1 << 16
_ANCHORS: dict[str, float] = {"centre": 0.5, "bottom-right": 1.0, "top-left": 0.0}


@dataclass(frozen=True)
class ImageMapping:
    """Where the tower's pixels come from: `tower = scale * camera + offset` along each axis.

    Pixel coordinates are in the corner convention of `Intrinsics`: the centre of the first pixel is (0.5, 0.5). The
    constructors are named by what hosts do. They take the camera's size as the host gets it.

    Example:
        >>> mapping = ImageMapping.letterboxed(camera_hw=(480, 640), tower_hw=(224, 224))
        >>> mapping.shown  # the rows above 28 and from 196 on are padding
        (28.0, 0.0, 196.0, 224.0)
        >>> mapping.to_tower(Intrinsics(600.0, 600.0, 320.0, 240.0, (480, 640)))
        Intrinsics(fx_px=210.0, fy_px=210.0, cx_px=112.0, cy_px=112.0, image_hw=(224, 224))

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
        _check_sizes(camera_hw=self.camera_hw, tower_hw=self.tower_hw)
        for name in ("camera_hw", "tower_hw"):
            object.__setattr__(self, name, size_hw(name, getattr(self, name)))
        numbers = (self.scale_x, self.scale_y, self.offset_x, self.offset_y)
        if not all(map(math.isfinite, numbers)) or min(self.scale_x, self.scale_y) <= 0:
            raise ConfigError(f"a mapping needs positive scales and finite offsets, got {numbers}")
        top, left, bottom, right = self.shown
        if not (0 <= top <= bottom <= self.tower_hw[0] and 0 <= left <= right <= self.tower_hw[1]):
            raise ConfigError(
                f"shown is (top, left, bottom, right) inside an image {_sized(self.tower_hw)}, got {self.shown}"
            )

    @classmethod
    def stretched(cls, camera_hw: tuple[int, int], tower_hw: tuple[int, int]) -> ImageMapping:
        """Stretched to the tower's size: SigLIP, `data.preparation`, thumbnails, Qwen-VL, InternVL.

        Raises:
            ConfigError: an impossible size.
        """
        _check_sizes(camera_hw=camera_hw, tower_hw=tower_hw)
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
            camera_hw: size of the camera's image.
            tower_hw: size of the crop.
            resize_short: length of the shorter side after resizing (`size.shortest_edge`), where it is not that of the
                crop.
            rounding: of half a pixel of margin: "down" as transformers' processors do by now, "half-even" as
                torchvision's `CenterCrop` does, and with it open_clip and timm.

        Raises:
            ConfigError: an impossible size, or the resized image is smaller than the crop.
        """
        _check_sizes(camera_hw=camera_hw, tower_hw=tower_hw)
        short = min(tower_hw) if resize_short is None else integer("resize_short", resize_short, 1, _LARGEST_SIDE_PX)
        choice("rounding", rounding, ("down", "half-even"))
        height, width = camera_hw
        resized_hw = (short, int(short * width / height)) if height <= width else (int(short * height / width), short)
        margins = [resized_hw[i] - tower_hw[i] for i in (0, 1)]
        if min(margins) < 0:
            raise ConfigError(
                f"the image {_sized(camera_hw)}, resized to {_sized(resized_hw)}, is smaller than the crop "
                f"{_sized(tower_hw)}; give the length of the shorter side as resize_short"
            )
        top, left = (margin // 2 if rounding == "down" else round(margin / 2) for margin in margins)
        return cls.stretched(camera_hw, resized_hw).cropped(top, left, tower_hw)

    @classmethod
    def letterboxed(
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
        `letterboxed(camera_hw, (side, side)).compose(stretched((side, side), tower_hw))` with the longer side.

        Args:
            camera_hw: size of the camera's image.
            tower_hw: size of the image with its padding.
            anchor: where the camera's image lies; an odd pixel of padding goes to the right or the bottom.
            rounding: of the resized shorter side; LLaVA-NeXT rounds up, LeRobot and openpi down.

        Raises:
            ConfigError: an impossible size, or one side would shrink to nothing.
        """
        _check_sizes(camera_hw=camera_hw, tower_hw=tower_hw)
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
            raise ConfigError(f"an image {_sized(camera_hw)} has no pixel left when it fits into {_sized(tower_hw)}")
        top, left = (int(_ANCHORS[anchor] * (tower_hw[i] - (rows, columns)[i])) for i in (0, 1))
        return cls.stretched(camera_hw, (rows, columns)).cropped(-top, -left, tower_hw)

    def cropped(self, top: int, left: int, tower_hw: tuple[int, int]) -> ImageMapping:
        """The mapping to a window of size `tower_hw` at (top, left) of the tower's image; beyond it lies padding."""
        _check_sizes(tower_hw=tower_hw)
        return self._then((1.0, 1.0), (-top, -left), tower_hw, (0, 0, *tower_hw))

    def clipped(self, part: tuple[float, float, float, float]) -> ImageMapping:
        """The mapping with no more shown than lies in the (top, left, bottom, right) of the tower's image."""
        return self._then((1.0, 1.0), (0.0, 0.0), self.tower_hw, part)

    def tiles(self, tile_hw: tuple[int, int]) -> tuple[ImageMapping, ...]:
        """One mapping for each tile the tower's image is cut into, row by row: InternVL, Idefics, LLaVA-NeXT.

        The mapping tiled is that to all tiles together: `stretched` for InternVL and Idefics, `letterboxed` with
        `rounding="up"` for LLaVA-NeXT. Their thumbnail is a `stretched` image of its own.

        Raises:
            ConfigError: tiles of that size do not fill the image.
        """
        _check_sizes(tile_hw=tile_hw)
        (height, width), (rows, columns) = self.tower_hw, tile_hw
        if height % rows or width % columns:
            raise ConfigError(
                f"an image {_sized(self.tower_hw)} cannot be cut into whole tiles {_sized(tile_hw)}; give the size of "
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
                f"a mapping to {_sized(self.tower_hw)} cannot be followed by one from {_sized(later.camera_hw)}"
            )
        scale, offset = (later.scale_y, later.scale_x), (later.offset_y, later.offset_x)
        return self._then(scale, offset, later.tower_hw, later.shown)

    def _then(
        self,
        scale_yx: tuple[float, float],
        offset_yx: tuple[float, float],
        tower_hw: tuple[int, int],
        part: tuple[float, float, float, float],
    ) -> ImageMapping:
        """This mapping and a step to an image of size `tower_hw`, which shows no more than lies in that part of it."""
        top, left, bottom, right = (
            float(min(max(scale_yx[i % 2] * edge + offset_yx[i % 2], part[i % 2]), part[i % 2 + 2]))
            for i, edge in enumerate(self.shown)
        )
        return ImageMapping(
            self.camera_hw,
            tower_hw,
            self.scale_x * scale_yx[1],
            self.scale_y * scale_yx[0],
            self.offset_x * scale_yx[1] + offset_yx[1],
            self.offset_y * scale_yx[0] + offset_yx[0],
            (top, left, bottom, right),
        )

    @property
    def stretches(self) -> bool:
        """Whether the tower's image shows all of the camera's, and nothing else."""
        return self == ImageMapping.stretched(self.camera_hw, self.tower_hw)

    def tower_pixels(self, camera_uv: Tensor) -> Tensor:
        """Where points of the camera's image, (..., 2) floating point (u right, v down), lie in the tower's or beyond.

        Raises:
            ConfigError: not such a tensor.
        """
        scale, offset = self._affine(camera_uv)
        return camera_uv * scale + offset

    def camera_pixels(self, tower_uv: Tensor) -> Tensor:
        """Where points of the tower's image lie in the camera's: the inverse of `tower_pixels`, with its errors."""
        scale, offset = self._affine(tower_uv)
        return (tower_uv - offset) / scale

    def to_tower(self, intrinsics: Intrinsics) -> Intrinsics:
        """Intrinsics of the tower's image from those of the camera's, given at any resolution of the whole image.

        Raises:
            ConfigError: they are of an image of another aspect ratio than the camera's.
        """
        camera = _whole_image(intrinsics, self.camera_hw, "camera")
        return camera.mapped((self.scale_x, self.scale_y), (self.offset_x, self.offset_y), self.tower_hw)

    def to_camera(self, intrinsics: Intrinsics) -> Intrinsics:
        """Intrinsics of the camera's image from those of the tower's, given at any resolution of the whole image.

        Raises:
            ConfigError: they are of an image of another aspect ratio than the tower's.
        """
        tower = _whole_image(intrinsics, self.tower_hw, "tower")
        return Intrinsics(
            tower.fx_px / self.scale_x,
            tower.fy_px / self.scale_y,
            (tower.cx_px - self.offset_x) / self.scale_x,
            (tower.cy_px - self.offset_y) / self.scale_y,
            self.camera_hw,
        )

    def valid_tower_pixels(self, size: tuple[int, int] | None = None, *, device: torch.device | str = "cpu") -> Tensor:
        """Which pixels of the tower's image have their centre in what shows the camera's, not in padding: (h, w) bool.

        Args:
            size: (h, w) of the mask; the tower's own size if None.
            device: of the mask.

        Raises:
            ConfigError: an impossible size.
        """
        size = self.tower_hw if size is None else size
        _check_sizes(size=size)
        rows, columns = (
            within(pixel_centres(size[i], self.tower_hw[i]), self.shown[i], self.shown[i + 2]).to(device)
            for i in (0, 1)
        )
        return rows[:, None] & columns

    def without_padding(self, values: Tensor) -> Tensor:
        """(B, H, W) maps of the tower's image, 0 or False in the padding; the maps themselves where there is none."""
        if self.shown == (0, 0, *self.tower_hw):
            return values
        shown = self.valid_tower_pixels((values.shape[1], values.shape[2]), device=values.device)
        return torch.where(shown, values, torch.zeros((), dtype=values.dtype, device=values.device))

    def places(self, camera_hw: tuple[int, int], tower_map: Tensor) -> Places:
        """Where the pixels of the camera's image, at that size, lie in a map (B, h, w) of the tower's.

        Raises:
            ConfigError: an impossible size.
        """
        _check_sizes(size=camera_hw)
        axes = []
        for i, (scale, offset) in enumerate(((self.scale_y, self.offset_y), (self.scale_x, self.offset_x))):
            place = scale * pixel_centres(camera_hw[i], self.camera_hw[i]) + offset
            shown = within(place, self.shown[i], self.shown[i + 2])
            count = tower_map.shape[i + 1]
            axes.append(AxisPlaces.at(place * (count / self.tower_hw[i]), shown, count=count, like=tower_map))
        return Places(*axes)

    def _affine(self, uv: Tensor) -> tuple[Tensor, Tensor]:
        if not isinstance(uv, Tensor) or uv.shape[-1:] != (2,) or not uv.is_floating_point():
            given = f"{uv.dtype} of shape {tuple(uv.shape)}" if isinstance(uv, Tensor) else type(uv).__name__
            raise ConfigError(f"pixels are a floating-point tensor (..., 2) of u (right) and v (down), got {given}")
        return uv.new_tensor([self.scale_x, self.scale_y]), uv.new_tensor([self.offset_x, self.offset_y])


def _whole_image(intrinsics: Intrinsics, hw: tuple[int, int], whose: str) -> Intrinsics:
    """The intrinsics at size `hw`, if they are of a whole image of that aspect ratio, a pixel of their own aside."""
    (height, width), (rows, columns) = hw, intrinsics.image_hw
    if min(abs(columns - rows * width / height), abs(rows - columns * height / width)) > 1:
        raise ConfigError(
            f"intrinsics of an image {_sized(intrinsics.image_hw)} are not those of the {whose}'s image "
            f"{_sized(hw)} at any resolution; give those of the whole image"
        )
    return intrinsics if intrinsics.image_hw == hw else intrinsics.resized(hw)


def _check_sizes(**sizes: tuple[int, int]) -> None:
    for name, hw in sizes.items():
        if not isinstance(hw, tuple):
            raise ConfigError(f"{name} must be a tuple (height, width) in pixels, got {hw!r}")
        size_hw(name, hw)


def _sized(hw: tuple[int, int]) -> str:
    return f"{hw[0]}x{hw[1]} (HxW)"
