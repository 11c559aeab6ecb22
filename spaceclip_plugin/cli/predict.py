"""`spaceclip predict`: depth of photos and of clips, as files."""

from __future__ import annotations

import argparse
import errno
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from spaceclip_plugin.attach import DepthAttachment
from spaceclip_plugin.cli.clips import ABOUT_CLIPS, Clip, add_clip_arguments, clip_of
from spaceclip_plugin.cli.depth_video import depth_video
from spaceclip_plugin.cli.flags import add_overwrite
from spaceclip_plugin.cli.hosts import add_attachment, attached
from spaceclip_plugin.cli.outputs import Result, check_apart, check_free, files_of_head
from spaceclip_plugin.cli.photos import photos_in
from spaceclip_plugin.cli.predicted import (
    Said,
    lines_of_clip,
    lines_of_photo,
    lines_of_video,
    listed,
    said_of_clip,
    said_of_shot,
    write_files,
)
from spaceclip_plugin.cli.recordings import recording, recordings_of
from spaceclip_plugin.cli.shots import Image, Naming, Shot, shots_of
from spaceclip_plugin.depth import DepthMap
from spaceclip_plugin.depth.camera_file import camera_from
from spaceclip_plugin.errors import CaptureError, ConfigError, DataError
from spaceclip_plugin.evaluation import predict

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


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Host, head, photos and where to write."""
    parser.epilog = DETAILS + ABOUT_CLIPS
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
        help="write all photos and depth as ROS 2 messages, a photo a second and a clip's frames at their times; needs "
        "--intrinsics",
    )
    parser.add_argument("--flip", action="store_true", help="average with the mirrored photo: two forwards")
    add_clip_arguments(parser)
    parser.add_argument(
        "images",
        nargs="+",
        type=Path,
        metavar="IMAGE",
        help="photos, or folders of photos (not of folders in them); or one video",
    )


def run(args: argparse.Namespace) -> Result:
    """Check every name and number before the host is loaded, so that a slip costs nothing."""
    clip = clip_of(args)
    of_video = clip is not None and clip.video is not None
    photos = args.images if of_video else photos_in(args.images)
    naming = Naming(args.out, None if args.intrinsics is None else camera_from(args.intrinsics))
    recordings = recordings_of(args)
    _check_names(photos, naming, recordings, clip, args)
    shots = shots_of(photos, naming, clip, args.intrinsics_size)
    failed = shots.failed
    if not shots.count:
        raise DataError(listed(failed, len(photos)))

    from tqdm.auto import tqdm

    predictions: list[Said] = []
    with (
        attached(args) as attachment,
        recording(recordings, replace=args.overwrite) as record,
        depth_video(clip, args.depth_range, replace=args.overwrite) as video,
    ):
        if clip is not None and clip.steady:
            attachment.keep_steady()
        for shot in tqdm(shots.each, total=shots.count, desc="predicting", unit="photo" if clip is None else "frame"):
            try:
                depth, photo = _predicted(shot, attachment, args)
                record(shot, depth, photo)
                if video is not None:
                    video.add(shot, depth, photo)
                predictions.append(said_of_shot(shot, depth))
            except (DataError, ConfigError, CaptureError) as error:
                if of_video:
                    raise
                failed[shot.source] = str(error)
            except OSError as error:
                if of_video or error.errno not in _NAMES:
                    raise
                failed[shot.source] = f"{shot.source}: its files cannot be named ({error.strerror})"
        if not predictions:
            raise DataError(listed(failed, len(photos)))
    lines = [line for said in predictions for line in lines_of_photo(said)]
    data: Said = {
        "predictions": predictions,
        "recordings": {kind: str(path) for kind, path in recordings.items()},
        "failed": [{"image": str(photo), "reason": failed[photo]} for photo in photos if photo in failed],
    }
    if clip is not None and video is not None:
        data["clip"] = said_of_clip(clip, video)
        lines = [*(lines_of_video(predictions) if of_video else lines), *lines_of_clip(data["clip"], predictions)]
    text = "\n".join(lines + [f"{kind}: {path}" for kind, path in recordings.items()])
    return Result(text, data, listed(failed, len(photos)) if failed else None)


def _size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"\s*(\d{1,6})\s*[,x]\s*(\d{1,6})\s*", text)
    if match is None or not all(int(side) for side in match.groups()):
        raise argparse.ArgumentTypeError(f"expected H,W in pixels, as 480,640, got {text!r}")
    return int(match[1]), int(match[2])


def _check_names(
    photos: Sequence[Path],
    naming: Naming,
    recordings: Mapping[str, Path],
    clip: Clip | None,
    args: argparse.Namespace,
) -> None:
    """No file is written twice, none that is read is written, and none that is there is replaced unless told to."""
    written = naming.files_of(photos, clip)
    beside = {f"--{kind}": path for kind, path in recordings.items()}
    if clip is not None:
        beside["the clip's video"] = clip.depth_video
    for what, path in beside.items():
        if path in written:
            raise ConfigError(f"{what} {path} is also what is written for {written[path]}; choose another name")
        written[path] = what
    read = [Path(path) for path in (args.intrinsics, args.poses, args.host_weights) if path is not None]
    check_apart(written, inputs=[*photos, *read, *files_of_head(args.head)])
    check_free(list(written), overwrite=args.overwrite)


def _predicted(shot: Shot, attachment: DepthAttachment, args: argparse.Namespace) -> tuple[DepthMap, Image]:
    """The depth of a shot and what it is of; its files are written, each of them whole."""
    photo = shot.read()
    image_hw = (photo.shape[0], photo.shape[1])
    # Of a policy's several cameras a clip is one's: its video is followed by the camera's name.
    name = None if shot.frame is None else next(iter(attachment.cameras), None)
    if shot.pose is not None:
        attachment.place({name: shot.pose})
    depth = predict(attachment, [photo], output_hw=image_hw, flip=args.flip, intrinsics=shot.camera, camera=name)
    write_files(shot, depth, photo, depth_range_m=args.depth_range, replace=args.overwrite)
    return depth, photo
