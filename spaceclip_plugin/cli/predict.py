"""`spaceclip predict`: depth of photos, as files."""

from __future__ import annotations

import argparse
import errno
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spaceclip_plugin.cli import outputs
from spaceclip_plugin.cli.flags import add_overwrite
from spaceclip_plugin.cli.hosts import add_attachment, attached
from spaceclip_plugin.cli.photo_cameras import cameras_of_photos, known_camera, size_argument
from spaceclip_plugin.cli.photo_files import RecordingPaths, Recordings, files_of, write_files
from spaceclip_plugin.cli.photos import photos_in, read_headers
from spaceclip_plugin.cli.result import Result
from spaceclip_plugin.errors import CaptureError, ConfigError, DataError

if TYPE_CHECKING:
    from spaceclip_plugin.attach.attachment import DepthAttachment
    from spaceclip_plugin.depth.camera import Intrinsics

NAME = "predict"
HELP = "Write depth of photos: 16-bit PNG in millimetres, a picture, and a point cloud when intrinsics are given."
DETAILS = """
Depth is that of the upright photo, turned as its EXIF tag says, pixel by pixel: metres along the optical axis (z), not
along the ray. Points are x right, y down, z forward. A photo that cannot be used does not stop the others: it is listed
at the end with its reason (--json: "failed"), and the exit code is 1. Nothing that is there is replaced without
--overwrite, files of an earlier run included: no record tells them from yours. Every file is whole or absent.
"""
_NAMES = (errno.ENAMETOOLONG, errno.EILSEQ)
"""Refusals of the disk that are about a photo's name, and not about every file to come."""


@dataclass(frozen=True)
class _Job:
    """A photo that is to be predicted."""

    photo: Path
    files: Mapping[str, Path]
    image_hw: tuple[int, int]
    camera: Intrinsics | None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Host, head, photos and where to write."""
    parser.epilog = DETAILS
    add_attachment(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the files, made if absent")
    add_overwrite(parser)
    parser.add_argument(
        "--intrinsics",
        metavar="FX,FY,CX,CY|FILE",
        help="of the photos in pixels, first pixel's centre at (0.5, 0.5): add 0.5 to the cx and cy of OpenCV; or a "
        "file: fx fy cx cy or the 3x3 matrix as text or .npy, intrinsics.json, a ROS camera_info as .yaml (the half is "
        "added here), a cameras.txt of COLMAP. Writes a PLY point cloud per photo",
    )
    parser.add_argument(
        "--intrinsics-size",
        type=size_argument,
        metavar="H,W",
        help="size of the image that the intrinsics are of (default: the file's, or that of all photos). Photos of "
        "another resolution get them rescaled, those of another aspect ratio are refused. Where EXIF turns a photo it "
        "may be that of the stored pixels, and the intrinsics are turned, or of the upright ones; where both fit it is "
        "that of the stored ones",
    )
    parser.add_argument(
        "--rerun",
        type=Path,
        metavar="FILE.rrd",
        help="write all photos, depth and points into a Rerun recording, a photo a frame",
    )
    parser.add_argument(
        "--mcap",
        type=Path,
        metavar="FILE.mcap",
        help="write all photos and depth as ROS 2 messages, a photo a second; needs --intrinsics",
    )
    parser.add_argument("--flip", action="store_true", help="average with the mirrored photo: two forwards")
    parser.add_argument(
        "images", nargs="+", type=Path, metavar="IMAGE", help="photos, or folders of photos (not of folders in them)"
    )


def run(args: argparse.Namespace) -> Result:
    """Check every name and number before the host is loaded, so that a slip costs nothing."""
    recordings = RecordingPaths(args.rerun, args.mcap)
    photos = photos_in(args.images)
    _check_names(photos, recordings, args)
    recordings.check(with_camera=args.intrinsics is not None)
    jobs, failed = _jobs(photos, args)
    if not jobs:
        raise DataError(_listed(failed, len(photos)))

    from tqdm.auto import tqdm

    lines: list[str] = []
    predictions: list[dict[str, Any]] = []
    with attached(args) as attachment, Recordings(recordings, replace=args.overwrite) as recorded:
        for job in tqdm(jobs, desc="predicting", unit="photo"):
            try:
                prediction = _predicted(job, attachment, recorded, flip=args.flip, replace=args.overwrite)
            except (DataError, ConfigError, CaptureError) as error:
                failed[job.photo] = str(error)
            except OSError as error:
                if error.errno not in _NAMES:
                    raise
                failed[job.photo] = f"{job.photo}: its files cannot be named ({error.strerror})"
            else:
                predictions.append(prediction)
                lines += _lines(prediction)
        if not predictions:
            raise DataError(_listed(failed, len(photos)))
    lines += [f"{kind}: {path}" for kind, path in recordings.by_kind().items()]
    data = {
        "predictions": predictions,
        "recordings": {kind: str(path) for kind, path in recordings.by_kind().items()},
        "failed": [{"image": str(photo), "reason": failed[photo]} for photo in photos if photo in failed],
    }
    return Result("\n".join(lines), data, _listed(failed, len(photos)) if failed else None)


def _jobs(photos: Sequence[Path], args: argparse.Namespace) -> tuple[list[_Job], dict[Path, str]]:
    """The photos that can be predicted, and why the others cannot."""
    calibration = None
    if args.intrinsics is not None:
        from spaceclip_plugin.depth.camera_file import calibration_from

        calibration = calibration_from(args.intrinsics)
    elif args.intrinsics_size is not None:
        raise ConfigError("--intrinsics-size says of which size --intrinsics are; give these, too")
    headers, failed = read_headers(photos)
    cameras: Mapping[Path, Intrinsics] = {}
    if calibration is not None and headers:
        found = cameras_of_photos(known_camera(calibration, args.intrinsics_size, headers), headers)
        cameras = found.cameras
        failed.update(found.refused)
    return [
        _Job(photo, _files(photo, args), headers[photo].upright_hw, cameras.get(photo))
        for photo in photos
        if photo not in failed
    ], failed


def _predicted(
    job: _Job, attachment: DepthAttachment, recorded: Recordings, *, flip: bool, replace: bool
) -> dict[str, Any]:
    """Predict a photo, write its files, and say what they are."""
    from spaceclip_plugin.data.files.images import read_rgb
    from spaceclip_plugin.evaluation import predict

    photo = read_rgb(job.photo)
    image_hw = (photo.shape[0], photo.shape[1])
    if image_hw != job.image_hw:
        raise DataError(f"{job.photo}: its header tells {job.image_hw} pixels (H, W), it has {image_hw}; save it again")
    depth = predict(attachment, [photo], output_hw=image_hw, flip=flip)
    write_files(job.files, depth, photo, job.camera, name=job.photo.stem, replace=replace)
    recorded.add(depth, photo, job.camera)
    known = depth.depth_m[depth.valid]
    camera = job.camera
    return {
        "image": str(job.photo),
        "median_depth_m": float(known.median()) if known.numel() else None,
        "trained": depth.trained,
        "image_hw": list(image_hw),
        "intrinsics": camera and {"fx": camera.fx_px, "fy": camera.fy_px, "cx": camera.cx_px, "cy": camera.cy_px},
        "files": {kind: str(file) for kind, file in job.files.items()},
    }


def _files(photo: Path, args: argparse.Namespace) -> dict[str, Path]:
    return files_of(photo, args.out, points=args.intrinsics is not None)


def _lines(prediction: Mapping[str, Any]) -> list[str]:
    median = prediction["median_depth_m"]
    said = "no depth" if median is None else f"median depth {median:.2f} m"
    return [f"{prediction['image']}: {said}", *(f"  {kind}: {file}" for kind, file in prediction["files"].items())]


def _listed(failed: Mapping[Path, str], photos: int) -> str:
    reasons = "\n".join(f"  {reason}" for reason in failed.values())
    return f"{len(failed)} of {photos} photos could not be predicted:\n{reasons}"


def _check_names(photos: Sequence[Path], recordings: RecordingPaths, args: argparse.Namespace) -> None:
    """No file is written twice, none that is read is written, and none that is there is replaced unless told to."""
    stems: dict[str, Path] = {}
    for photo in photos:
        folded = unicodedata.normalize("NFC", photo.stem).casefold()
        if folded in stems:
            raise ConfigError(
                f"two photos are called {photo.stem!r}, and so would be their files ({stems[folded]}, {photo}); "
                "predict them separately"
            )
        stems[folded] = photo
    written = {file: str(photo) for photo in photos for file in _files(photo, args).values()}
    for kind, path in recordings.by_kind().items():
        if path in written:
            raise ConfigError(f"--{kind} {path} is also what is written for {written[path]}; choose another name")
        written[path] = f"--{kind}"
    outputs.check_apart(written, inputs=[*photos, *_read_beside(args)])
    outputs.check_free(list(written), overwrite=args.overwrite)


def _read_beside(args: argparse.Namespace) -> Iterable[Path]:
    """Files that the command reads beside its photos."""
    named = (args.intrinsics, args.host_weights)
    return [Path(path) for path in named if path is not None] + outputs.files_of_head(args.head)
