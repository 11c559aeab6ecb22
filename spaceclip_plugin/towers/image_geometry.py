"""How a host lays a camera's image in its tower's, where that is said in so many words: by a user, else by the host.

Where a policy has a function of its own for that, the function counts (`attach.preparations`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import nn
from torch.nn.functional import interpolate

from spaceclip_plugin import _checks
from spaceclip_plugin.depth import ImageMapping
from spaceclip_plugin.depth.image_mapping import Anchor
from spaceclip_plugin.errors import ConfigError

Layout = Literal["stretch", "letterbox", "centre-crop"]

ANCHORS: tuple[Anchor, ...] = ("centre", "bottom-right", "top-left")
WAYS = "stretch, letterbox[:ANCHOR[:FILL]] or centre-crop[:RESIZE]"
"""What `ImageGeometry.parse` takes."""

_MORE_WORDS = {"stretch": 0, "letterbox": 2, "centre-crop": 1}
_LAYOUTS = tuple(_MORE_WORDS)
_RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "lanczos": Image.Resampling.LANCZOS,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "box": Image.Resampling.BOX,
    "hamming": Image.Resampling.HAMMING,
}
_TORCHS = {"torch-bilinear": "bilinear", "torch-bicubic": "bicubic"}
RESAMPLING = (*_RESAMPLING, *_TORCHS)
_LARGEST_SIDE_PX = 1 << 16
_PUBLISHED = "bicubic-squash-1"
_USERS, _HOSTS = "_spaceclip_image_geometry", "image_geometry"


@dataclass(frozen=True)
class ImageGeometry:
    """How an image of any size becomes one of the tower's: stretched, letterboxed, or its middle cut out.

    Attributes:
        layout: "stretch": both sides resized to the tower's; "letterbox": resized until it fits, the rest filled;
            "centre-crop": resized until it covers, the middle cut out.
        anchor: where the image lies in a letterbox.
        fill: red, green and blue of the rest of it, from 0 to 255.
        resize: of a crop, what is resized to before: the length of the shorter side, or (height, width), stretched;
            None: the shorter side is the crop's.
        resampling: Pillow's filter, one of "nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"; or torch's,
            antialiased on bytes as torchvision does it, "torch-bilinear" or "torch-bicubic": off by a few levels.
        STRETCH: as the published recipe has it, and what is taken where nothing is said.

    Raises:
        ConfigError: a value that its field cannot have, or that its layout has no use for.

    Example:
        >>> from spaceclip_plugin.towers import ImageGeometry
        >>> geometry = ImageGeometry.parse("letterbox:bottom-right")
        >>> geometry.mapping((480, 640), (224, 224)).shown
        (56.0, 0.0, 224.0, 224.0)
    """

    layout: Layout = "stretch"
    anchor: Anchor = "centre"
    fill: tuple[int, int, int] = (0, 0, 0)
    resize: int | tuple[int, int] | None = None
    resampling: str = "bicubic"

    STRETCH: ClassVar[ImageGeometry]

    def __post_init__(self) -> None:
        _checks.choice("layout of images", self.layout, _LAYOUTS)
        _checks.choice("anchor of a letterbox", self.anchor, ANCHORS)
        _checks.choice("resampling", self.resampling, RESAMPLING)
        object.__setattr__(self, "fill", _checks.wholes("fill of a letterbox", self.fill, 0, 255, length=3))
        if isinstance(self.resize, (tuple, list)):
            object.__setattr__(self, "resize", _checks.wholes("resize", self.resize, 1, _LARGEST_SIDE_PX, length=2))
        elif self.resize is not None:
            _checks.whole("resize", self.resize, 1, _LARGEST_SIDE_PX)
        if self.layout != "letterbox" and (self.anchor, self.fill) != ("centre", (0, 0, 0)):
            raise ConfigError(f"anchor and fill are those of a letterbox, and this is a {self.layout}; leave them out")
        if self.layout != "centre-crop" and self.resize is not None:
            raise ConfigError(f"resize is what comes before a crop, and this is a {self.layout}; leave it out")

    @classmethod
    def parse(cls, words: str) -> ImageGeometry:
        """The geometry that words name: `stretch`, `letterbox[:ANCHOR[:FILL]]` or `centre-crop[:RESIZE]`.

        ANCHOR is centre, bottom-right or top-left; FILL a grey from 0 to 255, or R,G,B; RESIZE what the shorter side
        is resized to before, 256, or both sides, height x width: 256x320.

        Raises:
            ConfigError: they name none.
        """
        layout, *more = words.split(":")
        _checks.choice("preparation of images", layout, _LAYOUTS)
        if len(more) > _MORE_WORDS[layout]:
            raise ConfigError(f"images are prepared by {WAYS}, got {_checks.shown(words)}")
        if layout == "centre-crop" and more:
            return cls("centre-crop", resize=_resize(more[0]))
        anchor = more[0] if more else "centre"
        fill: tuple[int, ...] = (0, 0, 0)
        if len(more) == 2:
            if not re.fullmatch(r"\d{1,3}(,\d{1,3},\d{1,3})?", more[1], re.ASCII):
                raise ConfigError(f"fill is a grey from 0 to 255, or R,G,B, got {_checks.shown(more[1])}")
            fill = tuple(map(int, more[1].split(",")))
            fill = fill * 3 if len(fill) == 1 else fill
        return cls(layout, anchor, fill)  # type: ignore[arg-type]  # it checks them

    @property
    def name(self) -> str:
        """All that decides the pixels, in one word; another word where they are made otherwise."""
        if self == ImageGeometry.STRETCH:
            return _PUBLISHED
        words: list[str] = [self.layout]
        if self.layout == "letterbox":
            words += [self.anchor, ",".join(map(str, self.fill))]
        if self.resize is not None:
            words.append(_joined(self.resize))
        return "-".join([*words, self.resampling, "1"])

    @property
    def kind(self) -> str:
        """Where the image lies, in words that `parse` takes, whatever fills the rest and interpolates it."""
        if self.layout == "letterbox":
            return f"letterbox:{self.anchor}"
        return self.layout if self.resize is None else f"{self.layout}:{_joined(self.resize)}"

    def mapping(self, camera_hw: tuple[int, int], tower_hw: tuple[int, int]) -> ImageMapping:
        """Where the pixels of an image of that size lie in the tower's.

        Raises:
            ConfigError: an impossible size; or what is resized is smaller than the crop.
        """
        if self.layout == "stretch":
            return ImageMapping.stretched(camera_hw, tower_hw)
        if self.layout == "letterbox":
            return ImageMapping.letterboxed(camera_hw, tower_hw, anchor=self.anchor)
        if not isinstance(self.resize, tuple):
            short = self.resize or _short(tower_hw, camera_hw)
            return ImageMapping.centre_cropped(camera_hw, tower_hw, resize_short=short)
        top, left = ((self.resize[i] - tower_hw[i]) // 2 for i in (0, 1))
        if min(top, left) < 0:
            raise ConfigError(
                f"images are resized to {self.resize[0]}x{self.resize[1]} (HxW), and the tower's, "
                f"{tower_hw[0]}x{tower_hw[1]}, cannot be cut out of that; give another preparation"
            )
        return ImageMapping.stretched(camera_hw, self.resize).cropped(top, left, tower_hw)

    def image(self, image: npt.NDArray[np.uint8], tower_hw: tuple[int, int]) -> npt.NDArray[np.uint8]:
        """The tower's image (h, w, 3) of one (H, W, 3), both uint8 RGB."""
        mapping = self.mapping((image.shape[0], image.shape[1]), tower_hw)
        rows, columns = round(mapping.scale_y * image.shape[0]), round(mapping.scale_x * image.shape[1])
        resized = self._resized(np.ascontiguousarray(image), (rows, columns))
        top, left = round(mapping.offset_y), round(mapping.offset_x)
        if (top, left, rows, columns) == (0, 0, *tower_hw):
            return resized
        laid = np.empty((*tower_hw, 3), np.uint8)
        laid[:] = self.fill
        part = resized[max(0, -top) : tower_hw[0] - top, max(0, -left) : tower_hw[1] - left]
        laid[max(0, top) : max(0, top) + part.shape[0], max(0, left) : max(0, left) + part.shape[1]] = part
        return laid

    def _resized(self, image: npt.NDArray[np.uint8], hw: tuple[int, int]) -> npt.NDArray[np.uint8]:
        if self.resampling in _RESAMPLING:
            return np.asarray(Image.fromarray(image).resize(hw[::-1], _RESAMPLING[self.resampling]))
        photo = torch.from_numpy(image).permute(2, 0, 1)[None].contiguous()
        found = interpolate(photo, hw, mode=_TORCHS[self.resampling], antialias=True)
        return np.ascontiguousarray(found[0].permute(1, 2, 0).numpy())

    def declare(self, host: nn.Module) -> None:
        """Have photos prepared so for every tower of `host`, whatever the host says.

        It is kept as a plain attribute of the host, and changes nothing of what the host does to its own images.
        """
        setattr(host, _USERS, self)


ImageGeometry.STRETCH = ImageGeometry()


@dataclass(frozen=True)
class UnknownGeometry:
    """That a host says how it prepares images, and why that is not understood."""

    reason: str


def say_host_geometry(host: nn.Module, geometry: ImageGeometry | UnknownGeometry) -> None:
    """Keep what a host's own files say, for whoever prepares photos for it; a plain attribute, as its statistics."""
    setattr(host, _HOSTS, geometry)


def said_by_user(holders: Iterable[nn.Module]) -> ImageGeometry | None:
    """What a user declared for one of these modules, which hold each other, the innermost first."""
    found = (getattr(module, _USERS, None) for module in holders)
    return next((one for one in found if isinstance(one, ImageGeometry)), None)


def said_by_host(holders: Iterable[nn.Module]) -> ImageGeometry | UnknownGeometry | None:
    """What the innermost of these modules that says something declares of itself; None where none does."""
    found = (getattr(module, _HOSTS, None) for module in holders)
    return next((one for one in found if isinstance(one, ImageGeometry | UnknownGeometry)), None)


def _short(tower_hw: tuple[int, int], camera_hw: tuple[int, int]) -> int:
    """The length of the shorter side of an image that just covers the tower's."""
    height, width = camera_hw
    for short in range(min(tower_hw), _LARGEST_SIDE_PX):
        resized = (short, int(short * width / height)) if height <= width else (int(short * height / width), short)
        if resized[0] >= tower_hw[0] and resized[1] >= tower_hw[1]:
            return short
    raise ConfigError(f"an image of {camera_hw} cannot cover one of {tower_hw} (H, W) pixels")


def _resize(words: str) -> int | tuple[int, int]:
    """256 or (256, 320), of "256" or "256x320"."""
    if not re.fullmatch(r"\d{1,5}(x\d{1,5})?", words, re.ASCII):
        raise ConfigError(f"what is resized to before a crop is 256, or 256x320 (HxW), got {_checks.shown(words)}")
    height, _, width = words.partition("x")
    return (int(height), int(width)) if width else int(height)


def _joined(resize: int | tuple[int, int]) -> str:
    return "x".join(map(str, resize if isinstance(resize, tuple) else [resize]))
