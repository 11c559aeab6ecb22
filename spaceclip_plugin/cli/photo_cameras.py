"""The camera of every photo, from one calibration: a K is of one image size, and photos may have others."""

from __future__ import annotations

import argparse
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from spaceclip_plugin.data.files.images import PhotoHeader
from spaceclip_plugin.data.files.orientation import UPRIGHT, upright_intrinsics
from spaceclip_plugin.depth.camera import Intrinsics, principal_point_inside, questionable, same_aspect
from spaceclip_plugin.depth.camera_file import Calibration
from spaceclip_plugin.errors import ConfigError

_MOST_NAMED = 4

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PhotoCameras:
    """What one calibration says of many photos.

    Attributes:
        cameras: of each upright photo that it can be of.
        refused: why not, of each other one.
    """

    cameras: Mapping[Path, Intrinsics]
    refused: Mapping[Path, str]


def size_argument(text: str) -> tuple[int, int]:
    """(H, W) from `H,W` or `HxW`, for argparse."""
    match = re.fullmatch(r"\s*(\d{1,6})\s*[,x]\s*(\d{1,6})\s*", text)
    if match is None or not all(int(side) for side in match.groups()):
        raise argparse.ArgumentTypeError(f"expected H,W in pixels, as 480,640, got {text!r}")
    return int(match[1]), int(match[2])


def known_camera(
    calibration: Calibration, image_hw: tuple[int, int] | None, headers: Mapping[Path, PhotoHeader]
) -> Intrinsics:
    """The calibrated camera at the size that is given, told by its file, or known: that of all photos.

    A principal point far from the middle, or a view as of no usual lens, is questioned in the log.

    Args:
        calibration: as it was handed in.
        image_hw: (H, W) that was given beside it.
        headers: of the photos that can be opened, at least one.

    Raises:
        ConfigError: two sizes that differ, none where photos have several, or a principal point outside of the image.
    """
    told = calibration.image_hw
    if image_hw is not None and told not in (None, image_hw):
        raise ConfigError(f"--intrinsics-size says {_sized(image_hw)}, the intrinsics' file {_sized(told)}; give one")
    camera = calibration.of(image_hw or told or _one_size(headers))
    if not principal_point_inside(camera):
        height, width = camera.image_hw
        raise ConfigError(
            f"the principal point cx={camera.cx_px:g}, cy={camera.cy_px:g} lies outside of an image of "
            f"{_sized(camera.image_hw)}: these intrinsics are of another size, perhaps about "
            f"{round(2 * camera.cy_px)}x{round(2 * camera.cx_px)}. Give it with --intrinsics-size H,W, or check the "
            f"order FX,FY,CX,CY (in the middle: cx={0.5 * width:g}, cy={0.5 * height:g})"
        )
    question = questionable(camera)
    if question is not None:
        _logger.warning("--intrinsics are taken as they are, but %s", question)
    return camera


def cameras_of_photos(camera: Intrinsics, headers: Mapping[Path, PhotoHeader]) -> PhotoCameras:
    """The camera of each photo, which may be a resized image of the calibrated one, or one that EXIF turns.

    A size that fits the stored photo is that of the sensor: K is turned with the photo. One that fits the upright photo
    only is taken as it is. Where both fit (square photos, and those turned by 180 degrees or mirrored), it is the
    sensor's, and the log says so where that makes a difference: a K is the same for all photos of a camera, however it
    was held.
    """
    cameras: dict[Path, Intrinsics] = {}
    refused: dict[Path, str] = {}
    ambiguous: list[Path] = []
    for photo, header in headers.items():
        as_stored, as_upright = _readings(camera, header)
        if as_stored is None and as_upright is None:
            refused[photo] = (
                f"{photo}: the intrinsics are of images of {_sized(camera.image_hw)}, and {_described(header)} is no "
                "such image at another resolution: it was cropped, or another camera took it. Predict it separately, "
                "with intrinsics of its own"
            )
            continue
        cameras[photo] = as_stored or as_upright or camera
        if as_stored is not None and as_upright is not None and not _alike(as_stored, as_upright):
            ambiguous.append(photo)
    if ambiguous:
        first = cameras[ambiguous[0]]
        _logger.warning(
            "EXIF turns %d photos whose intrinsics may be of the stored or of the upright image (first: %s): they are "
            "taken to be of the stored one, the sensor's, and turned with the photo (there to cx=%g, cy=%g). If they "
            "are of the upright one, save the photos upright first",
            len(ambiguous), ambiguous[0], first.cx_px, first.cy_px,
        )  # fmt: skip
    return PhotoCameras(cameras, refused)


def _readings(camera: Intrinsics, header: PhotoHeader) -> tuple[Intrinsics | None, Intrinsics | None]:
    """The upright photo's camera if K is the stored image's, and if it is the upright one's; None where it cannot be.

    An equal size decides before one that is equal up to resizing: near-square photos would fit both.
    """
    stored_hw, upright_hw = header.stored_hw, header.upright_hw
    for fits in (_equal, same_aspect):
        found = (
            upright_intrinsics(camera.resized(stored_hw), header.orientation)
            if fits(camera.image_hw, stored_hw)
            else None,
            camera.resized(upright_hw) if fits(camera.image_hw, upright_hw) else None,
        )
        if found != (None, None):
            return found
    return None, None


def _one_size(headers: Mapping[Path, PhotoHeader]) -> tuple[int, int]:
    sizes: dict[tuple[int, int], list[str]] = {}
    for photo, header in headers.items():
        for hw in dict.fromkeys((header.upright_hw, header.stored_hw)):
            sizes.setdefault(hw, []).append(f"{photo.name}{'' if hw == header.upright_hw else ' as stored'}")
    if len(sizes) == 1:
        return next(iter(sizes))
    listed = [
        f"{_sized(hw)} ({', '.join(names[:2])}{f' and {len(names) - 2} more' if len(names) > 2 else ''})"
        for hw, names in list(sizes.items())[:_MOST_NAMED]
    ]
    more = f" and {len(sizes) - _MOST_NAMED} more" if len(sizes) > _MOST_NAMED else ""
    raise ConfigError(
        f"the photos have several sizes, and intrinsics are of one: {', '.join(listed)}{more}. Give the size of the "
        "image they are of: --intrinsics-size H,W; photos of another resolution get them rescaled"
    )


def _equal(one: tuple[int, int], other: tuple[int, int]) -> bool:
    return tuple(one) == tuple(other)


def _alike(one: Intrinsics, other: Intrinsics) -> bool:
    """Within a thousandth of a pixel."""
    return one.image_hw == other.image_hw and all(
        abs(mine - theirs) < 1e-3
        for mine, theirs in zip(
            (one.fx_px, one.fy_px, one.cx_px, one.cy_px),
            (other.fx_px, other.fy_px, other.cx_px, other.cy_px),
            strict=True,
        )
    )


def _described(header: PhotoHeader) -> str:
    turned = "" if header.orientation == UPRIGHT else f", stored as {_sized(header.stored_hw)} and turned by EXIF"
    return f"this photo of {_sized(header.upright_hw)}{turned}"


def _sized(hw: tuple[int, int] | None) -> str:
    return "unknown size" if hw is None else f"{hw[0]}x{hw[1]} (HxW)"
