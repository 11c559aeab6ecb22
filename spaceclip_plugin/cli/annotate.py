"""`spaceclip annotate`: a LeRobot data set with the depth that a head gives of its photos."""

from __future__ import annotations

import argparse
from pathlib import Path

from spaceclip_plugin.cli.hosts import add_attachment, attached
from spaceclip_plugin.cli.outputs import Result
from spaceclip_plugin.data import parse_source
from spaceclip_plugin.depth import DistortedCamera, Intrinsics
from spaceclip_plugin.depth.camera import check_whole_image, same_aspect
from spaceclip_plugin.depth.camera_file import camera_from
from spaceclip_plugin.errors import ConfigError

DETAILS = """
The source is only read. Of its camera CAM the new data set has observation.images.CAM_depth beside all that the source
has: metres along the optical axis, 0 where there is no depth. Videos are copied, not encoded again. Finished episodes
are kept in OUT.parts: the same command goes on where a stopped one was, and OUT appears when it is whole. Several
processes share the episodes: torchrun --nproc_per_node N -m spaceclip_plugin.cli annotate ... Depth is a head's
prediction: meta/spaceclip_depth.json says whose, and training or scoring a head on it is refused.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Host, head, data, what to write and where."""
    parser.epilog = DETAILS
    add_attachment(parser)
    parser.add_argument("--data", required=True, metavar="lerobot:ID|DIR", help="the data set: on the Hub, or a folder")
    parser.add_argument("--camera", metavar="NAME", help="whose photos get depth (default: the only camera)")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the new data set")
    parser.add_argument(
        "--store",
        choices=("image", "video"),
        help="depth as images or as a video of 4096 steps over the head's range (default: as the photos are)",
    )
    parser.add_argument(
        "--unit", choices=("mm", "m"), default="mm", help="of images: 16-bit millimetres or float metres (default: mm)"
    )
    parser.add_argument(
        "--with",
        dest="extras",
        nargs="+",
        default=(),
        choices=("uncertainty", "validity", "three-channels"),
        metavar="WHAT",
        help="write also: uncertainty (CAM_depth_uncertainty, metres of standard deviation), validity "
        "(CAM_depth_valid, white where there is depth), three-channels (CAM_depth_rgb, a grey picture for policies "
        "that take no other)",
    )
    parser.add_argument(
        "--intrinsics",
        metavar="FX,FY,CX,CY|FILE",
        help="of the camera, in pixels of its photos or with a size, as for predict: depth is then in metres of that "
        "camera (default: of the one that the head assumes)",
    )
    parser.add_argument("--flip", action="store_true", help="average with the mirrored photo: two forwards")
    parser.add_argument("--batch", type=int, default=8, metavar="N", help="photos of one run of the tower (default: 8)")


def run(args: argparse.Namespace) -> Result | None:
    """Open the data before the host, so that a slip costs nothing."""
    from spaceclip_plugin.bridges.lerobot.annotation.recording import Recording
    from spaceclip_plugin.bridges.lerobot.dataset import LeRobotData

    data = parse_source(args.data)
    if not isinstance(data, LeRobotData):
        raise ConfigError(f"LeRobot data sets are enriched, as --data lerobot:ID; got {args.data!r}")
    recording = Recording(data, camera=args.camera)
    camera = None if args.intrinsics is None else _camera(args.intrinsics, recording.image_hw)

    from tqdm.auto import tqdm

    # They import lerobot, which `Recording` has said in words where it is missing.
    from spaceclip_plugin.bridges.lerobot.annotation.annotate import Annotation, AnnotationOptions
    from spaceclip_plugin.training.processes import Processes

    options = AnnotationOptions(args.store, args.unit, tuple(args.extras), camera, args.flip, args.batch)
    names = {"head": args.head, "host": args.host, "data": args.data}
    with attached(args) as attachment:
        processes = Processes(next(attachment.head.parameters()).device)
        annotation = Annotation(attachment, recording, args.out, options=options, names=names)
        with tqdm(desc="annotating", unit="frame", disable=not processes.main) as bar:
            try:
                done = annotation.run(processes, progress=bar.update)
            except KeyboardInterrupt as error:
                raise KeyboardInterrupt("finished episodes are kept; the same command goes on") from error
    if not processes.main:
        return None
    speed = done.predicted_frames / done.seconds if done.predicted_frames else None
    text = f"{args.out}: {done.episodes} episodes, {done.frames} frames, with {', '.join(done.features)}"
    if speed is None:
        text += "\n  was whole already: nothing was predicted"
    else:
        text += f"\n  {done.predicted_frames} frames predicted in this run, {speed:.1f} a second, "
        text += f"{100 * (done.valid or 0):.1f} % of the pixels have depth"
    if done.beyond:
        text += f"\n  {100 * done.beyond:.2g} % of that was read beyond the head's range and is stored as the end of it"
    text += "\n  depth is predicted, not measured; meta/spaceclip_depth.json says by which head"
    data_out = {
        "out": str(args.out),
        "episodes": done.episodes,
        "frames": done.frames,
        "predicted_frames": done.predicted_frames,
        "frames_per_second": speed,
        "valid": done.valid,
        "beyond": done.beyond,
        "features": list(done.features),
        "record": done.record,
    }
    return Result(text, data_out)


def _camera(text: str, image_hw: tuple[int, int]) -> Intrinsics:
    """The pinhole of the recorded photos."""
    given = camera_from(text)
    camera = given.of(given.image_hw or image_hw)
    if isinstance(camera, DistortedCamera):
        raise ConfigError(
            "these intrinsics tell of lens distortion, and the photos of a data set stay as they are: undistort them "
            "when they are recorded, and give the pinhole of the undistorted photos"
        )
    if not same_aspect(camera.image_hw, image_hw):
        raise ConfigError(f"the intrinsics are of an image of {camera.image_hw} (H, W), the photos are {image_hw}")
    return check_whole_image(camera.resized(image_hw), whose="the camera")
