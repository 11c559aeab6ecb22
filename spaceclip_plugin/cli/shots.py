"""What `predict` looks at, photo by photo or frame by frame: where its files go, its camera, and its pixels."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from spaceclip_plugin.bridges.video.reading import Video
from spaceclip_plugin.cli.clips import Clip
from spaceclip_plugin.cli.photos import calibrated_camera, cameras_of_photos, no_camera, pinhole_of, undistorted
from spaceclip_plugin.data.files.images import PhotoHeader, read_header, read_rgb
from spaceclip_plugin.depth import DistortedCamera, Intrinsics
from spaceclip_plugin.depth.camera_file import CameraParameters
from spaceclip_plugin.depth.poses_file import Matrix
from spaceclip_plugin.errors import ConfigError, DataError

Image = npt.NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Shot:
    """A photo, or a frame of a clip, that is to be predicted."""

    source: Path  # the photo or the video
    name: str  # what its picture says
    header: PhotoHeader
    files: Mapping[str, Path]  # by kind
    camera: Intrinsics | None
    lens: DistortedCamera | None = None  # undistorts the photo; `camera` is then of the undistorted one
    frame: int | None = None  # its place in the clip
    time_s: float | None = None  # since the clip's first frame
    pose: Matrix | None = None  # (4, 4) camera to world
    image: Image | None = None  # of a video, decoded already

    def read(self) -> Image:
        """(H, W, 3) upright RGB as the tower is to see it, undistorted where its lens distorts."""
        photo = read_rgb(self.source) if self.image is None else self.image
        image_hw = (photo.shape[0], photo.shape[1])
        if image_hw != self.header.upright_hw:
            told = self.header.upright_hw
            raise DataError(f"{self.source}: its header tells {told} pixels (H, W), it has {image_hw}; save it again")
        return photo if self.lens is None else undistorted(photo, self.lens, self.header)


@dataclass(frozen=True)
class Shots:
    """Those that can be predicted, and why others cannot."""

    count: int
    each: Iterable[Shot]
    failed: dict[Path, str]


@dataclass(frozen=True)
class Naming:
    """How the files of a call are called."""

    out: Path
    calibration: CameraParameters | None  # of its camera; points are written where it is known

    def of_photo(self, photo: Path) -> dict[str, Path]:
        """Where a photo's files go, by kind."""
        return self._files(self.out, photo.stem)

    def of_frame(self, video: Path, number: int) -> dict[str, Path]:
        """Where the files of a video's frame go, by kind."""
        return self._files(self.out / video.stem, f"{number:06d}")

    def files_of(self, photos: Sequence[Path], clip: Clip | None) -> dict[Path, str]:
        """Every file of these photos or of a video's frames, with what it is of."""
        if clip is None or clip.video is None:
            _check_stems(photos)
            return {file: str(photo) for photo in photos for file in self.of_photo(photo).values()}
        numbers = range(clip.video.frames if clip.all_frames else 0)
        return {file: f"frame {n} of {clip.place}" for n in numbers for file in self.of_frame(clip.place, n).values()}

    def _files(self, folder: Path, stem: str) -> dict[str, Path]:
        files = {"depth_mm": folder / f"{stem}_depth.png", "picture": folder / f"{stem}_picture.png"}
        if self.calibration is not None:
            files["points"] = folder / f"{stem}.ply"
            if self.calibration.model is not None:
                files["undistorted"] = folder / f"{stem}_undistorted.png"
        return files


def shots_of(photos: Sequence[Path], naming: Naming, clip: Clip | None, image_hw: tuple[int, int] | None) -> Shots:
    """Photos, each by itself or as the frames of a clip, or the frames of a video as they are decoded.

    What cannot be opened has failed; so have photos that the camera did not take, and frames of another size than the
    first of their clip. `image_hw` is the size that the calibration is said to be of.
    """
    if naming.calibration is None and image_hw is not None:
        raise ConfigError("--intrinsics-size says of which size --intrinsics are; give these, too")
    failed: dict[Path, str] = {}
    headers = _headers(photos, clip, failed)
    cameras, lens = _cameras(headers, naming.calibration, image_hw, failed)
    if clip is not None and clip.video is not None:
        if failed:
            return Shots(0, (), failed)
        shot = Shot(clip.place, clip.place.stem, clip.video.header, {}, cameras.get(clip.place), lens)
        poses = None if clip.poses is None else clip.poses.of_frames([str(n) for n in range(clip.video.frames)])
        return Shots(clip.video.frames, _frames_of(clip, clip.video, shot, naming, poses), failed)
    poses = None if clip is None or clip.poses is None else clip.poses.of_frames([photo.stem for photo in photos])
    shots = []
    for number, photo in enumerate(photos):
        if photo in failed:
            continue
        shot = Shot(photo, photo.stem, headers[photo], naming.of_photo(photo), cameras.get(photo), lens)
        if clip is not None:
            pose = None if poses is None else poses[number]
            shot = replace(shot, frame=number, time_s=number / clip.fps, pose=pose)
        shots.append(shot)
    return Shots(len(shots), shots, failed)


def _frames_of(clip: Clip, video: Video, shot: Shot, naming: Naming, poses: Matrix | None) -> Iterator[Shot]:
    number = -1
    for number, frame in enumerate(video.read()):
        if poses is not None and number >= len(poses):
            break
        yield replace(
            shot,
            name=f"{clip.place.stem}, {frame.time_s:.2f} s",
            files=naming.of_frame(clip.place, number) if clip.all_frames else {},
            frame=number,
            time_s=frame.time_s,
            pose=None if poses is None else poses[number],
            image=frame.image,
        )
    if poses is not None and number + 1 != len(poses):
        raise DataError(
            f"{clip.place}: it says that it has {video.frames} frames, and another number of them can be decoded, so "
            "that which pose is of which is not known; write the video anew, or its frames as files"
        )


def _check_stems(photos: Sequence[Path]) -> None:
    stems: dict[str, Path] = {}
    for photo in photos:
        stem = unicodedata.normalize("NFC", photo.stem).casefold()
        if stem in stems:
            raise ConfigError(
                f"two photos are called {photo.stem!r}, and so would be their files ({stems[stem]}, {photo}); predict "
                "them separately"
            )
        stems[stem] = photo


def _headers(photos: Sequence[Path], clip: Clip | None, failed: dict[Path, str]) -> dict[Path, PhotoHeader]:
    """Of those that can be opened, and in a clip are of one size."""
    if clip is not None and clip.video is not None:
        return {clip.place: clip.video.header}
    headers: dict[Path, PhotoHeader] = {}
    for photo in photos:
        try:
            header = read_header(photo)
            first = next(iter(headers.values()), header)
            if clip is not None and header.upright_hw != first.upright_hw:
                raise DataError(
                    f"{photo}: it is of {header.upright_hw} pixels (H, W), the clip's first frame of "
                    f"{first.upright_hw}; make the frames of one size"
                )
            headers[photo] = header
        except DataError as error:
            failed[photo] = str(error)
    return headers


def _cameras(
    headers: Mapping[Path, PhotoHeader],
    calibration: CameraParameters | None,
    image_hw: tuple[int, int] | None,
    failed: dict[Path, str],
) -> tuple[Mapping[Path, Intrinsics], DistortedCamera | None]:
    """The camera of every photo that can be one of the calibrated camera's; the others are put among the failed."""
    if calibration is None or not headers:
        return {}, None
    found = calibrated_camera(calibration, image_hw, headers)
    camera = pinhole_of(found)
    cameras = cameras_of_photos(camera, headers)
    failed |= {photo: no_camera(camera, photo, header) for photo, header in headers.items() if photo not in cameras}
    return cameras, found if isinstance(found, DistortedCamera) else None
