"""The clip that `predict` is given, a video or a folder of frames, and the flags that are about clips."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from spaceclip_plugin.bridges.video.reading import VIDEO_SUFFIXES, Video, open_video
from spaceclip_plugin.bridges.video.writing import import_writer
from spaceclip_plugin.depth.poses_file import CAMERA_TO_WORLD, EXPECTED, WORLD_TO_CAMERA, CameraPoses, read_poses
from spaceclip_plugin.errors import ConfigError

ABOUT_CLIPS = """
A video (spaceclip-plugin[video]) is a clip, and so is a folder with --steady, --poses or --fps: its photos in the order
of their names. NAME_depth.mp4 shows a clip beside its depth, in colours of one range; files of every frame of a video
are written on request (--frames). A frame that cannot be used is missing from the clip of a folder; a video is
predicted whole or not at all. With --steady the depth of a frame is what it and those before it say together, so that
it does not flicker; where nothing is seen again it begins anew, which is said (--json: "steady"). With --poses frames
are told where their camera was, which also tells of the scale.
"""
_FPS = 10.0
_MAX_FPS = 1000.0
_MAX_RANGE_M = 1e6


@dataclass(frozen=True)
class Clip:
    """Frames of one camera, in order."""

    place: Path  # the video, or the folder
    fps: float  # about; a video's frames have times of their own
    depth_video: Path  # to be written
    video: Video | None = None
    all_frames: bool = False  # whether a video's frames have files of their own
    steady: bool = False  # whether frames are made of those before them, too
    poses: CameraPoses | None = None  # where the camera was at each frame


def add_clip_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags about clips, and the range of colours, which pictures of photos have too."""
    group = parser.add_argument_group("clips")
    group.add_argument(
        "--steady", action="store_true", help="depth that does not flicker: of every frame with those before it"
    )
    group.add_argument(
        "--poses",
        type=Path,
        metavar="FILE",
        help="where the camera was at every frame, in metres and OpenCV's axes (x right, y down, z forward): "
        f"{EXPECTED} (of a video: their numbers, from 0); needs --intrinsics, and means --steady",
    )
    group.add_argument(
        "--poses-are",
        choices=(CAMERA_TO_WORLD, WORLD_TO_CAMERA),
        help=f"what the matrices take points from and to (default: {CAMERA_TO_WORLD})",
    )
    group.add_argument(
        "--fps",
        type=_fps,
        metavar="N",
        help=f"the folder's photos are frames of a clip, so many a second (default where it is one: {_FPS:g})",
    )
    group.add_argument(
        "--frames",
        action="store_true",
        help="write the files that a photo has of every frame of the video, too, in a folder of the video's name",
    )
    group.add_argument(
        "--depth-range",
        type=_range,
        metavar="NEAR,FAR",
        help="metres at the ends of the colours (default: what shows a photo well; of a clip's video what shows its "
        "first frames well, a fifth nearer and a quarter farther)",
    )


def clip_of(args: argparse.Namespace) -> Clip | None:
    """The clip that the command line names; None where it names photos."""
    videos = [place for place in args.images if place.suffix.lower() in VIDEO_SUFFIXES and not place.is_dir()]
    if not videos and args.frames:
        raise ConfigError("--frames is for videos: of photos, and of a folder's, every file is written anyway")
    steady = args.steady or args.poses is not None
    poses = _poses(args)
    if not videos and not steady and args.fps is None:
        return None
    if steady and args.flip:
        raise ConfigError(
            "--flip shows the tower every frame a second time, mirrored, and --steady takes each for the "
            "next of the clip; give one of the two"
        )
    [place, *others] = args.images
    if others or not (videos or place.is_dir()):
        raise ConfigError(
            f"a clip is one video, or one folder of frames, got {', '.join(map(str, args.images))}; predict clips one "
            "by one"
        )
    import_writer()
    if not videos:
        file = args.out / f"{place.resolve().name}_depth.mp4"
        return Clip(place, args.fps or _FPS, file, steady=steady, poses=poses)
    if args.fps is not None:
        raise ConfigError("--fps is for frames in a folder; a video has its own times")
    video = open_video(place)
    return Clip(place, video.fps, args.out / f"{place.stem}_depth.mp4", video, args.frames, steady, poses)


def _poses(args: argparse.Namespace) -> CameraPoses | None:
    if args.poses is None:
        if args.poses_are is not None:
            raise ConfigError("--poses-are says what the matrices of --poses are; give these, too")
        return None
    if args.intrinsics is None:
        raise ConfigError(
            "--poses needs --intrinsics: how an image moves when its camera does depends on the lens; give both"
        )
    return read_poses(args.poses, poses_are=args.poses_are or CAMERA_TO_WORLD)


def _fps(text: str) -> float:
    value = float(text)
    if not 0 < value <= _MAX_FPS:
        raise argparse.ArgumentTypeError(f"expected frames a second, above 0 and at most {_MAX_FPS:g}, got {text!r}")
    return value


def _range(text: str) -> tuple[float, float]:
    try:
        near, far = (float(word) for word in text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"expected NEAR,FAR in metres, as 0.3,4, got {text!r}") from error
    if not 0 <= near < far <= _MAX_RANGE_M:
        raise argparse.ArgumentTypeError(f"expected 0 <= NEAR < FAR in metres, got {text!r}")
    return near, far
