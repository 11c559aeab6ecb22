"""`spaceclip predict`: depth of photos, as files."""

from __future__ import annotations

import argparse
import errno
import itertools
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from spaceclip_plugin._files import atomic_path
from spaceclip_plugin.attach import DepthAttachment
from spaceclip_plugin.cli.flags import add_overwrite
from spaceclip_plugin.cli.hosts import add_attachment, attached
from spaceclip_plugin.cli.outputs import Result, check_apart, check_free, files_of_head
from spaceclip_plugin.cli.photos import (
    calibrated_camera,
    cameras_of_photos,
    no_camera,
    photos_in,
    pinhole_of,
    undistorted,
)
from spaceclip_plugin.data.files.images import PhotoHeader, read_header, read_rgb
from spaceclip_plugin.depth import DepthMap, DistortedCamera, Intrinsics, depth_picture, write_png
from spaceclip_plugin.depth.camera_file import CameraParameters, camera_from
from spaceclip_plugin.depth.depth_map import ASSUMED, KNOWN, UNFAMILIAR
from spaceclip_plugin.errors import CaptureError, ConfigError, DataError
from spaceclip_plugin.evaluation import predict

Record = Callable[[DepthMap, npt.NDArray[np.uint8], Intrinsics | None], None]

DETAILS = """
Depth is that of the upright photo, turned as its EXIF tag says, pixel by pixel: metres along the optical axis (z), not
along the ray. Points are x right, y down, z forward. With --intrinsics the metres are those of that camera, without
them those of the camera that the head assumes. A photo that cannot be used does not stop the others: it is listed
at the end with its reason (--json: "failed"), and the exit code is 1. Nothing that is there is replaced without
--overwrite, files of an earlier run included: no record tells them from yours. Every file is whole or absent.
Where the intrinsics' file tells of lens distortion, photos are undistorted first (spaceclip-plugin[camera]), as widely
as a pinhole shows nothing unseen, at most 120 degrees: depth, picture and points are those of the undistorted photo,
which is written, too. An intrinsics.json tells it by distortion_model (brown-conrady or fisheye, as OpenCV's) and
distortion_coefficients.
"""
_NAMES = (errno.ENAMETOOLONG, errno.EILSEQ)  # refusals of the disk that are not about every file to come
_NS_PER_PHOTO = 10**9


@dataclass(frozen=True)
class _Job:
    """A photo that is to be predicted."""

    photo: Path
    files: Mapping[str, Path]
    header: PhotoHeader
    camera: Intrinsics | None
    lens: DistortedCamera | None = None  # undistorts the photo; `camera` is then of the undistorted one


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
        "added here), a cameras.txt of COLMAP. Writes a PLY point cloud per photo. Where the file tells "
        "of lens distortion, photos are undistorted first",
    )
    parser.add_argument(
        "--intrinsics-size",
        type=_size,
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
    recordings = {kind: path for kind in ("rerun", "mcap") if (path := getattr(args, kind)) is not None}
    photos = photos_in(args.images)
    calibration = None if args.intrinsics is None else camera_from(args.intrinsics)
    _check_names(photos, recordings, calibration, args)
    _check_recordings(recordings, args)
    jobs, failed = _jobs(photos, calibration, args)
    if not jobs:
        raise DataError(_listed(failed, len(photos)))

    from tqdm.auto import tqdm

    predictions: list[dict[str, Any]] = []
    with attached(args) as attachment, _recording(recordings, replace=args.overwrite) as record:
        for job in tqdm(jobs, desc="predicting", unit="photo"):
            try:
                predictions.append(_predicted(job, attachment, record, args))
            except (DataError, ConfigError, CaptureError) as error:
                failed[job.photo] = str(error)
            except OSError as error:
                if error.errno not in _NAMES:
                    raise
                failed[job.photo] = f"{job.photo}: its files cannot be named ({error.strerror})"
        if not predictions:
            raise DataError(_listed(failed, len(photos)))
    lines = [line for prediction in predictions for line in _lines(prediction)]
    data = {
        "predictions": predictions,
        "recordings": {kind: str(path) for kind, path in recordings.items()},
        "failed": [{"image": str(photo), "reason": failed[photo]} for photo in photos if photo in failed],
    }
    text = "\n".join(lines + [f"{kind}: {path}" for kind, path in recordings.items()])
    return Result(text, data, _listed(failed, len(photos)) if failed else None)


def _size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"\s*(\d{1,6})\s*[,x]\s*(\d{1,6})\s*", text)
    if match is None or not all(int(side) for side in match.groups()):
        raise argparse.ArgumentTypeError(f"expected H,W in pixels, as 480,640, got {text!r}")
    return int(match[1]), int(match[2])


def _check_names(
    photos: Sequence[Path],
    recordings: Mapping[str, Path],
    calibration: CameraParameters | None,
    args: argparse.Namespace,
) -> None:
    """No file is written twice, none that is read is written, and none that is there is replaced unless told to."""
    stems: dict[str, Path] = {}
    for photo in photos:
        stem = unicodedata.normalize("NFC", photo.stem).casefold()
        if stem in stems:
            raise ConfigError(
                f"two photos are called {photo.stem!r}, and so would be their files ({stems[stem]}, {photo}); predict "
                "them separately"
            )
        stems[stem] = photo
    written = {file: str(photo) for photo in photos for file in _files(photo, calibration, args).values()}
    for kind, path in recordings.items():
        if path in written:
            raise ConfigError(f"--{kind} {path} is also what is written for {written[path]}; choose another name")
        written[path] = f"--{kind}"
    read = [Path(path) for path in (args.intrinsics, args.host_weights) if path is not None]
    check_apart(written, inputs=[*photos, *read, *files_of_head(args.head)])
    check_free(list(written), overwrite=args.overwrite)


def _check_recordings(recordings: Mapping[str, Path], args: argparse.Namespace) -> None:
    for kind, path in recordings.items():
        if path.is_dir():
            raise ConfigError(f"--{kind} takes a file, {str(path)!r} is a folder")
    if "rerun" in recordings:
        from spaceclip_plugin.bridges.rerun.sink import import_rerun

        import_rerun()
    if "mcap" in recordings:
        from spaceclip_plugin.bridges.ros.mcap_writer import import_mcap

        import_mcap()
        if args.intrinsics is None:
            raise ConfigError("--mcap writes the camera's intrinsics beside its depth; give --intrinsics, too")


def _jobs(
    photos: Sequence[Path], calibration: CameraParameters | None, args: argparse.Namespace
) -> tuple[list[_Job], dict[Path, str]]:
    """The photos that can be predicted, and why the others cannot."""
    if calibration is None and args.intrinsics_size is not None:
        raise ConfigError("--intrinsics-size says of which size --intrinsics are; give these, too")
    headers, failed = {}, {}
    for photo in photos:
        try:
            headers[photo] = read_header(photo)
        except DataError as error:
            failed[photo] = str(error)
    cameras: Mapping[Path, Intrinsics] = {}
    lens = None
    if calibration is not None and headers:
        found = calibrated_camera(calibration, args.intrinsics_size, headers)
        lens, camera = found if isinstance(found, DistortedCamera) else None, pinhole_of(found)
        cameras = cameras_of_photos(camera, headers)
        failed |= {photo: no_camera(camera, photo, header) for photo, header in headers.items() if photo not in cameras}
    return [
        _Job(photo, _files(photo, calibration, args), headers[photo], cameras.get(photo), lens)
        for photo in photos
        if photo not in failed
    ], failed


def _files(photo: Path, calibration: CameraParameters | None, args: argparse.Namespace) -> dict[str, Path]:
    """Where a photo's files go, by kind."""
    files = {"depth_mm": args.out / f"{photo.stem}_depth.png", "picture": args.out / f"{photo.stem}_picture.png"}
    if calibration is not None:
        files["points"] = args.out / f"{photo.stem}.ply"
        if calibration.model is not None:
            files["undistorted"] = args.out / f"{photo.stem}_undistorted.png"
    return files


@contextmanager
def _recording(paths: Mapping[str, Path], *, replace: bool) -> Iterator[Record]:
    """Recordings under way: what takes a photo's depth, photo and camera.
    They get their names when all photos are in them: a run that is killed leaves nothing of these names."""
    sink, writer, number = None, None, itertools.count()
    with ExitStack() as stack:
        places = {kind: stack.enter_context(atomic_path(path, replace=replace)) for kind, path in paths.items()}
        if "rerun" in places:
            from spaceclip_plugin.bridges.rerun import RerunSink

            sink = stack.enter_context(RerunSink(places["rerun"]))
        if "mcap" in places:
            from spaceclip_plugin.bridges.ros import McapWriter

            writer = stack.enter_context(McapWriter(places["mcap"]))

        def record(depth: DepthMap, photo: npt.NDArray[np.uint8], camera: Intrinsics | None) -> None:
            stamp_ns = next(number) * _NS_PER_PHOTO
            if sink is not None:
                sink.log(depth, camera, image=photo)
            if writer is not None and camera is not None:
                writer.write(depth, camera, stamp_ns=stamp_ns, image=photo)

        yield record


def _predicted(job: _Job, attachment: DepthAttachment, record: Record, args: argparse.Namespace) -> dict[str, Any]:
    """Predict a photo, write its files, each of them whole, and say what they are."""
    photo, camera = read_rgb(job.photo), job.camera
    image_hw = (photo.shape[0], photo.shape[1])
    if image_hw != job.header.upright_hw:
        told = job.header.upright_hw
        raise DataError(f"{job.photo}: its header tells {told} pixels (H, W), it has {image_hw}; save it again")
    if job.lens is not None:
        photo = undistorted(photo, job.lens, job.header)
    depth = predict(attachment, [photo], output_hw=image_hw, flip=args.flip, intrinsics=camera)
    write_files(job, depth, photo, replace=args.overwrite)
    record(depth, photo, camera)
    known = depth.depth_m[depth.valid]
    return {
        "image": str(job.photo),
        "median_depth_m": float(known.median()) if known.numel() else None,
        "trained": depth.trained,
        "lens": depth.lens,
        "familiarity": None if depth.familiarity is None else float(depth.familiarity),
        "image_hw": list(image_hw),
        "intrinsics": camera and {"fx": camera.fx_px, "fy": camera.fy_px, "cx": camera.cx_px, "cy": camera.cy_px},
        "files": {kind: str(file) for kind, file in job.files.items()},
    }


def write_files(job: _Job, depth: DepthMap, photo: npt.NDArray[np.uint8], *, replace: bool) -> None:
    """Write what is predicted of a photo."""
    depth.save_png16(job.files["depth_mm"], replace=replace)
    picture = depth_picture(depth.relabelled(camera=job.photo.stem), photo)
    write_png(job.files["picture"], picture, replace=replace)
    if "points" in job.files:
        depth.save_ply(job.files["points"], image=photo, replace=replace)
    if "undistorted" in job.files:
        write_png(job.files["undistorted"], photo, replace=replace)


def _lines(prediction: Mapping[str, Any]) -> list[str]:
    median, familiarity = prediction["median_depth_m"], prediction["familiarity"]
    said = "no depth" if median is None else f"median depth {median:.2f} m"
    if prediction["lens"] == ASSUMED:
        said += " (camera assumed: give --intrinsics)"
    elif prediction["lens"] != KNOWN and prediction["intrinsics"] is not None:
        said += " (the head does not tell which camera its metres are of)"
    if familiarity is not None:
        said += f", familiarity {familiarity:.2f}" + (": unlike the training images" * (familiarity < UNFAMILIAR))
    if "undistorted" in prediction["files"]:
        said += ", of the undistorted photo"
    return [f"{prediction['image']}: {said}", *(f"  {kind}: {file}" for kind, file in prediction["files"].items())]


def _listed(failed: Mapping[Path, str], photos: int) -> str:
    reasons = "\n".join(f"  {reason}" for reason in failed.values())
    return f"{len(failed)} of {photos} photos could not be predicted:\n{reasons}"
