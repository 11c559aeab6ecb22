"""RGB-D pairs from two folders: photos in one, depth maps of the same names in the other."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from os import PathLike
from pathlib import Path, PurePosixPath
from typing import ClassVar

from typing_extensions import Self

from spaceclip_plugin._checks import real, shown, unknown_key, whole
from spaceclip_plugin._files import read_json_object
from spaceclip_plugin.data.files.depth_formats import DEPTH_FORMATS, DEPTH_SUFFIXES
from spaceclip_plugin.data.files.images import PHOTO_SUFFIXES
from spaceclip_plugin.data.files.pairs import AXIS, DepthPair, Lens, checked_distance
from spaceclip_plugin.data.files.paths import composed
from spaceclip_plugin.data.sources.pair_source import PairSource
from spaceclip_plugin.data.sources.spec import PathSpec, absolute, checked_path, checked_units
from spaceclip_plugin.depth.camera_file import DISTORTION_KEYS
from spaceclip_plugin.errors import CheckpointError, ConfigError, DataError

INTRINSICS_NAME = "intrinsics.json"
_LENS_KEYS = ("fx", "fy", "cx", "cy", "width", "height")
_MAX_PX = 1e6


@dataclass(frozen=True)
class FolderData(PathSpec):
    """A folder as a config or a command line names it; see `ImageFolder`."""

    kind: ClassVar[str] = "folder"
    path: str
    images: str = "rgb"
    depth: str = "depth"
    units_per_metre: float | None = None  # None: the run's, or the evaluation protocol's
    distance: str = AXIS

    def __post_init__(self) -> None:
        checked_distance(self.distance)
        for name in ("path", "images", "depth"):
            checked_path(f"{name} of a data folder", getattr(self, name))
        object.__setattr__(self, "units_per_metre", checked_units(self.units_per_metre))

    def resolved(self, base: Path) -> Self:
        """With `path` made absolute, starting from `base`."""
        return dataclasses.replace(self, path=absolute(self.path, base))

    def open(self, *, units_per_metre: float, skip_bad: bool = False) -> ImageFolder:
        """The pairs of the folder; see `ImageFolder` for errors."""
        return self._opened(units_per_metre, need_depth=True, skip_bad=skip_bad)

    def open_photos(self, *, units_per_metre: float, skip_bad: bool = False) -> ImageFolder:
        """The photos of the folder, those without depth among them; see `ImageFolder` for errors."""
        return self._opened(units_per_metre, need_depth=False, skip_bad=skip_bad)

    def _opened(self, units_per_metre: float, *, need_depth: bool, skip_bad: bool) -> ImageFolder:
        return ImageFolder(
            self.path,
            images=self.images,
            depth=self.depth,
            units_per_metre=self.units_per_metre or units_per_metre,
            distance=self.distance,
            need_depth=need_depth,
            skip_bad=skip_bad,
        )


class ImageFolder(PairSource[str]):
    """A `DepthSource` over photos and depth maps of the same names.

        kitchen/
            rgb/            photos; folders within folders are fine
            depth/          depth maps of the same names: 16-bit PNG or PGM, or metres as .npy, .npz or float .tiff
            intrinsics.json optional: {"fx": 525.0, "fy": 525.0, "cx": 320.0, "cy": 240.0}, and "width" and "height"

    A photo belongs to the depth map whose path within its folder is the same but for the suffix, whether accents are
    composed or not (NFC, NFD). Pairs come in the order of these paths. Files that are neither, and hidden ones, are
    ignored.

    The intrinsics are those of every depth map, in its pixels as its file stores them (with a width and a height, those
    of an image of that size, and rescaled), with cx and cy in the corner convention (`camera.py`). How photo and depth
    are turned and which sizes go together stands in `files/pairs.py`, what counts as unknown depth in
    `files/depth_values.py`.

    Construction looks only at names; the files are read by indexing, and checked as a whole by `validated`.

    Attributes:
        path: the folder.
        units_per_metre: of integer depth; None where all depth files hold metres.
        skipped: (name, reason) of everything dropped because of `skip_bad`, in order.

    Example:
        >>> import numpy as np, pathlib, tempfile
        >>> from PIL import Image
        >>> from spaceclip_plugin.data import ImageFolder
        >>> with tempfile.TemporaryDirectory() as name:
        ...     for kind, image in (("rgb", Image.new("RGB", (4, 3))), ("depth", np.full((3, 4), 900, np.uint16))):
        ...         (pathlib.Path(name) / kind).mkdir()
        ...         Image.fromarray(np.asarray(image)).save(pathlib.Path(name) / kind / "table.png")
        ...     sample = ImageFolder(name, units_per_metre=1000)[0]
        >>> sample.name, sample.image.shape, round(float(sample.depth_m.max()), 3)
        ('table.png', (3, 4, 3), 0.9)
    """

    _noun = "images"
    _expected = "photos, each with a depth map of the same name"

    def __init__(
        self,
        path: str | PathLike[str],
        *,
        images: str = "rgb",
        depth: str = "depth",
        units_per_metre: float = 1000.0,
        distance: str = AXIS,
        need_depth: bool = True,
        skip_bad: bool = False,
    ) -> None:
        """Finds the pairs.

        Args:
            path: the folder.
            images: folder of the photos, in `path` or absolute.
            depth: folder of the depth maps, in `path` or absolute.
            units_per_metre: of integer depth (16-bit PNG or PGM): 1000 for millimetres, 256 for KITTI.
            distance: what depth is measured along: "axis", the optical axis, or "ray", which `intrinsics.json`
                converts.
            need_depth: whether a photo without a depth map, or the absence of their folder, is an error. Otherwise the
                depth of such a photo is unknown throughout: a teacher may give it.
            skip_bad: leave out photos without depth and depth without photo, record them in `skipped` and log a
                warning. Otherwise they are an error.

        Raises:
            ConfigError: `units_per_metre` is not finite and positive, or there is no such distance.
            DataError: a folder is missing, one lies in the other, `intrinsics.json` cannot be used, or photos and
                depth maps do not match (without `skip_bad`) or not at all.
        """
        self.path = Path(path)
        super().__init__(str(self.path), units_per_metre=units_per_metre, distance=distance, skip_bad=skip_bad)
        self.need_depth = need_depth
        self._roots = (self.path / images, self.path / depth)
        if not need_depth and self.path.is_dir() and not any(os.path.lexists(root) for root in self._roots):
            self._roots = (self.path, self.path / depth)  # photos and nothing else
        alone = not need_depth and self._roots[0].is_dir() and not self._roots[1].exists()
        if not alone:
            _check_roots(self.path, *self._roots)
        lens = _lens(self.path / INTRINSICS_NAME)
        photos = _files(self._roots[0], PHOTO_SUFFIXES)
        maps = {} if alone else _files(self._roots[1], DEPTH_SUFFIXES)
        good: list[DepthPair[str]] = []
        bad: list[tuple[str, str]] = []
        for stem in sorted({*photos, *maps}):
            try:
                good.append(self._pair(stem, photos.get(stem, []), maps.get(stem, []), lens))
            except DataError as error:
                bad.append((str(PurePosixPath(*stem)), str(error)))
        self._take(good, bad)

    def _pair(self, stem: tuple[str, ...], photos: list[Path], maps: list[Path], lens: Lens | None) -> DepthPair[str]:
        name = str(PurePosixPath(*stem))
        images, depth = self._roots
        for kind, other, files, root in (("photo", "depth map", photos, images), ("depth map", "photo", maps, depth)):
            if not files and (photos == [] or self.need_depth):
                found = _unread(root, stem)
                raise DataError(f"{name}: {other} without a {kind}, expected one of that name in {root}{found}")
            if len(files) > 1:
                found = ", ".join(sorted(file.name for file in files))
                raise DataError(f"{name}: {len(files)} {kind}s of one name in {root} ({found}); keep one of them")
        relative = photos[0].relative_to(images).as_posix()
        pair = DepthPair(photos[0], maps[0] if maps else None, relative, self.path.name, label=relative, lens=lens)
        return self._checked(pair, f"put them into {self.path / INTRINSICS_NAME}")


def _unread(root: Path, stem: tuple[str, ...]) -> str:
    """The end of a message about a file that is not there: one of that name but of a kind that is not read."""
    folder = root.joinpath(*stem[:-1])
    names = sorted(os.listdir(folder)) if folder.is_dir() else []
    found = [name for name in names if composed(Path(name).stem) == stem[-1] and not name.startswith(".")]
    photos = ", ".join(sorted(PHOTO_SUFFIXES))
    return f"; {', '.join(found)} is not read: photos are {photos}; {DEPTH_FORMATS}" if found else ""


def _check_roots(path: Path, images: Path, depth: Path) -> None:
    for folder in (path, images, depth):
        if not folder.is_dir():
            there = sorted(entry.name for entry in path.iterdir() if entry.is_dir()) if path.is_dir() else []
            named = f"; other folders are named in a config, images: and depth: ({path} has {', '.join(there)})"
            raise DataError(
                f"{folder}: no such folder; expected photos in {images} and depth maps of the same names in {depth}"
                f"{named if there else ''}"
            )
    one, other = images.resolve(), depth.resolve()
    if one == other or one in other.parents or other in one.parents:
        raise DataError(f"{images} and {depth}: one lies in the other; keep photos and depth maps in separate folders")


def _files(root: Path, suffixes: frozenset[str]) -> dict[tuple[str, ...], list[Path]]:
    """Files of these suffixes anywhere below a folder, by their path within it without the suffix.

    None that is hidden; linked folders are followed, but not in circles.
    """
    found: dict[tuple[str, ...], list[Path]] = {}
    for folder, folders, names in os.walk(root, followlinks=True, onerror=_refuse):
        real = Path(folder).resolve()
        inner = [name for name in folders if not name.startswith(".")]
        folders[:] = [name for name in inner if (real / name).resolve() not in (real, *real.parents)]
        for file in (Path(folder, name) for name in names if not name.startswith(".")):
            if file.suffix.lower() in suffixes:
                stem = tuple(composed(part) for part in file.relative_to(root).with_suffix("").parts)
                found.setdefault(stem, []).append(file)
    return found


def _refuse(error: OSError) -> None:
    raise DataError(f"{error.filename}: cannot list this folder ({error.strerror}); check its permissions") from error


def _lens(path: Path) -> Lens | None:
    if not path.exists():
        return None
    try:
        content = read_json_object(path)
        for key in content:
            if key in DISTORTION_KEYS:
                raise ConfigError(
                    f"{path}: {key} {shown(content[key])}: the depth is registered to distorted photos, and what is "
                    f"learnt here is that of a pinhole camera. Undistort photos and depth first, and leave out {key}"
                )
            if key not in _LENS_KEYS:
                raise unknown_key(key, list(_LENS_KEYS), where=str(path))
        fx_px, fy_px = (real(f"{path}: {key}", content.get(key), 1e-3, _MAX_PX) for key in ("fx", "fy"))
        cx_px, cy_px = (real(f"{path}: {key}", content.get(key), -_MAX_PX, _MAX_PX) for key in ("cx", "cy"))
        sides = [content[key] for key in ("height", "width") if key in content]
        sizes = [whole(f"{path}: width and height", side, 1, int(_MAX_PX)) for side in sides]
        if len(sizes) == 1:
            raise ConfigError(f"{path}: width and height go together")
    except (CheckpointError, ConfigError) as error:
        raise DataError(f"{error}; expected fx, fy, cx and cy in pixels of the depth maps") from error
    return Lens(fx_px, fy_px, cx_px, cy_px, (sizes[0], sizes[1]) if sizes else None)
