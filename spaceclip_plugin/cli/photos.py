"""The photos that a command line names, and the camera of each from one calibration; undistorted where it distorts."""

from __future__ import annotations

import glob
import logging
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple
from pathlib import Path

import numpy as np
import numpy.typing as npt

from spaceclip_plugin.data.files.images import PHOTO_SUFFIXES, PhotoHeader
from spaceclip_plugin.data.files.orientation import UPRIGHT, as_stored, upright, upright_intrinsics
from spaceclip_plugin.depth import DistortedCamera
from spaceclip_plugin.depth.camera import Intrinsics, principal_point_inside, questionable, same_aspect
from spaceclip_plugin.depth.camera_file import CameraParameters
from spaceclip_plugin.errors import ConfigError

_MAX_NAMED = 4
_log = logging.getLogger(__name__)


def photos_in(places: Sequence[Path]) -> list[Path]:
    """Files as they are given, and the photos of every folder or pattern, `frame2` before `frame10`.
    Of a pattern that the shell left as it was (quoted, or on Windows) all files are taken."""
    photos: list[Path] = []
    for place in places:
        if place.is_dir():
            photos += _of_folder(place)
        elif not os.path.lexists(place) and glob.has_magic(str(place)):
            matches = [Path(match) for match in glob.glob(str(place)) if os.path.isfile(match)]
            if not matches:
                raise ConfigError(f"no file matches the pattern {str(place)!r}; check the folder and the suffix")
            photos += sorted(matches, key=_natural)
        else:
            photos.append(place)
    return photos


def _of_folder(folder: Path) -> list[Path]:
    try:
        entries = [entry for entry in folder.iterdir() if not entry.name.startswith(".")]
    except OSError as error:
        raise ConfigError(f"cannot list {str(folder)!r} ({error.strerror}); check the folder's permissions") from error
    candidates = {entry for entry in entries if entry.suffix.lower() in PHOTO_SUFFIXES and not entry.is_dir()}
    # Depth and picture of a photo, both beside it: what an earlier run wrote into the folder of its photos.
    pairs = [
        [photo.with_name(f"{photo.stem}_{kind}.png") for kind in ("depth", "picture", "undistorted")]
        for photo in candidates
    ]
    ours = {file for files in pairs if candidates.issuperset(files[:2]) for file in files if file in candidates}
    photos = candidates - ours
    left = _left_out((entry for entry in entries if entry not in photos), ours)
    if not photos:
        raise ConfigError(
            f"there is no photo in the folder {str(folder)!r}: expected files with the suffixes "
            f"{', '.join(sorted(PHOTO_SUFFIXES))}, found {left or 'nothing'}; folders in it are not searched"
        )
    if left:
        _log.info("%s: %d photos are taken; left out: %s", folder, len(photos), left)
    return sorted(photos, key=_natural)


def _left_out(entries: Iterable[Path], ours: set[Path]) -> str:
    """What is not taken, counted by kind: a photo of an unread format must not be missed in silence."""

    def kind(entry: Path) -> str:
        if entry.is_dir():
            return "folders"
        return "files of an earlier run" if entry in ours else entry.suffix.lower() or "without suffix"

    return ", ".join(f"{count} {name}" for name, count in sorted(Counter(map(kind, entries)).items()))


def _natural(photo: Path) -> tuple[list[tuple[int, str]], str]:
    """Numbers in names by their value."""
    parts = re.findall(r"\d+|\D+", photo.name)
    return [(int(part), "") if part.isdecimal() else (-1, part.casefold()) for part in parts], photo.name


def calibrated_camera(
    calibration: CameraParameters, image_hw: tuple[int, int] | None, headers: Mapping[Path, PhotoHeader]
) -> Intrinsics | DistortedCamera:
    """The calibrated camera at the size that is given, told by its file, or known: that of all photos.
    `headers` are of the photos that can be opened, at least one."""
    told = calibration.image_hw
    if image_hw is not None and told is not None and told != image_hw:
        raise ConfigError(f"--intrinsics-size says {_sized(image_hw)}, the intrinsics' file {_sized(told)}; give one")
    camera = calibration.numbers(image_hw or told or _one_size(headers))
    if not principal_point_inside(camera):
        height, width = camera.image_hw
        raise ConfigError(
            f"the principal point cx={camera.cx_px:g}, cy={camera.cy_px:g} lies outside of an image of "
            f"{_sized(camera.image_hw)}: these intrinsics are of another size, perhaps about "
            f"{round(2 * camera.cy_px)}x{round(2 * camera.cx_px)}. Give it with --intrinsics-size H,W, or check the "
            f"order FX,FY,CX,CY (in the middle: cx={0.5 * width:g}, cy={0.5 * height:g})"
        )
    found = calibration.of(camera.image_hw)
    question = questionable(pinhole_of(found))
    if question is not None:
        _log.warning("--intrinsics are taken as they are, but %s", question)
    return found


def pinhole_of(camera: Intrinsics | DistortedCamera) -> Intrinsics:
    """The pinhole camera of the photos, or of undistorted ones."""
    return camera.intrinsics if isinstance(camera, DistortedCamera) else camera


def undistorted(photo: npt.NDArray[np.uint8], camera: DistortedCamera, header: PhotoHeader) -> npt.NDArray[np.uint8]:
    """An upright photo undistorted as it was taken: where `cameras_of_photos` takes the camera for that of the stored
    pixels, in these."""
    turned = header.orientation if _readings(camera.intrinsics, header)[0] is not None else UPRIGHT
    return upright(camera.undistorted(as_stored(photo, turned)), turned)


def cameras_of_photos(camera: Intrinsics, headers: Mapping[Path, PhotoHeader]) -> dict[Path, Intrinsics]:
    """The camera of each upright photo that is an image of the calibrated one, resized perhaps, or turned by EXIF.
    Where stored and upright photo fit, K is the stored one's: the same for all of a camera, however it was held."""
    cameras: dict[Path, Intrinsics] = {}
    ambiguous: list[Path] = []
    for photo, header in headers.items():
        as_stored, as_upright = _readings(camera, header)
        found = as_stored or as_upright
        if found is None:
            continue
        cameras[photo] = found
        if as_upright is not None and not _alike(found, as_upright):
            ambiguous.append(photo)
    if ambiguous:
        first = cameras[ambiguous[0]]
        _log.warning(
            "EXIF turns %d photos whose intrinsics may be of the stored or of the upright image (first: %s): they are "
            "taken to be of the stored one, the sensor's, and turned with the photo (there to cx=%g, cy=%g). If they "
            "are of the upright one, save the photos upright first",
            len(ambiguous), ambiguous[0], first.cx_px, first.cy_px,
        )  # fmt: skip
    return cameras


def no_camera(camera: Intrinsics, photo: Path, header: PhotoHeader) -> str:
    """Why a photo is not among those of `cameras_of_photos`."""
    turned = "" if header.orientation == UPRIGHT else f", stored as {_sized(header.stored_hw)} and turned by EXIF"
    return (
        f"{photo}: the intrinsics are of images of {_sized(camera.image_hw)}, and this photo of "
        f"{_sized(header.upright_hw)}{turned} is no such image at another resolution: it was cropped, or another "
        "camera took it. Predict it separately, with intrinsics of its own"
    )


def _readings(camera: Intrinsics, header: PhotoHeader) -> tuple[Intrinsics | None, Intrinsics | None]:
    """The upright photo's camera if K is the stored image's, and if it is the upright one's; None where it cannot be.
    An equal size decides before one that is equal up to resizing: near-square photos would fit both."""
    stored_hw, upright_hw = header.stored_hw, header.upright_hw
    for fits in (tuple.__eq__, same_aspect):
        stored, upright = fits(camera.image_hw, stored_hw), fits(camera.image_hw, upright_hw)
        if stored or upright:
            return (
                upright_intrinsics(camera.resized(stored_hw), header.orientation) if stored else None,
                camera.resized(upright_hw) if upright else None,
            )
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
        for hw, names in list(sizes.items())[:_MAX_NAMED]
    ]
    more = f" and {len(sizes) - _MAX_NAMED} more" if len(sizes) > _MAX_NAMED else ""
    raise ConfigError(
        f"the photos have several sizes, and intrinsics are of one: {', '.join(listed)}{more}. Give the size of the "
        "image they are of: --intrinsics-size H,W; photos of another resolution get them rescaled"
    )


def _alike(one: Intrinsics, other: Intrinsics) -> bool:
    """Within a thousandth of a pixel."""
    *mine, my_hw = astuple(one)
    *theirs, their_hw = astuple(other)
    return my_hw == their_hw and all(abs(a - b) < 1e-3 for a, b in zip(mine, theirs, strict=True))


def _sized(hw: tuple[int, int]) -> str:
    return f"{hw[0]}x{hw[1]} (HxW)"
