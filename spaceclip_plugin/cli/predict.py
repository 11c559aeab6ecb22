"""`spaceclip predict`: depth of photos, as files."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from spaceclip_plugin.camera import Intrinsics
from spaceclip_plugin.cli import arguments
from spaceclip_plugin.cli.result import Result
from spaceclip_plugin.errors import ConfigError, DataError

NAME = "predict"
HELP = "Write depth of photos: 16-bit PNG in millimetres, a picture, and a point cloud when intrinsics are given."
_NS_PER_PHOTO = 10**9


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Host, head, photos and where to write."""
    arguments.add_host(parser)
    arguments.add_head(parser)
    arguments.add_other_tower(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the files, made if absent")
    parser.add_argument(
        "--intrinsics",
        metavar="FX,FY,CX,CY|FILE",
        help="of the photos in pixels, first pixel's centre at (0.5, 0.5), or a text file with the 3x3 matrix; "
        "writes a PLY point cloud per photo",
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
    parser.add_argument("images", nargs="+", type=Path, metavar="IMAGE")


def run(args: argparse.Namespace) -> Result:
    """Check every name and number before the host is loaded, so that a slip costs nothing."""
    outputs = {path: _outputs(path, args) for path in args.images}
    recordings = {kind: path for kind, path in (("rerun", args.rerun), ("mcap", args.mcap)) if path is not None}
    _check_names(args.images, {**outputs, **{path: {kind: path} for kind, path in recordings.items()}})
    _intrinsics(args.intrinsics, (1, 1))
    _check_recordings(recordings, args.intrinsics)
    host = arguments.host_from(args)

    from tqdm.auto import tqdm

    from spaceclip_plugin.attachment import attach_depth_head
    from spaceclip_plugin.data.image_files import read_rgb
    from spaceclip_plugin.mcap_writer import McapWriter
    from spaceclip_plugin.pictures import depth_picture, write_png
    from spaceclip_plugin.prediction import predict
    from spaceclip_plugin.rerun_sink import RerunSink

    lines, predictions = [], []
    with ExitStack() as stack:
        attachment = stack.enter_context(
            attach_depth_head(host, args.head, tower=args.tower, adapter=args.adapter, other_tower=args.other_tower)
        )
        sink = stack.enter_context(RerunSink(args.rerun)) if args.rerun else None
        writer = stack.enter_context(McapWriter(args.mcap)) if args.mcap else None
        for index, (path, files) in enumerate(tqdm(outputs.items(), desc="predicting", unit="photo")):
            photo = read_rgb(path)
            image_hw = (photo.shape[0], photo.shape[1])
            depth = predict(attachment, [photo], output_hw=image_hw, flip=args.flip)
            depth.save_png16(files["depth_mm"])
            write_png(files["picture"], depth_picture(depth.relabelled(view=path.stem), photo))
            camera = _intrinsics(args.intrinsics, image_hw)
            if camera is not None:
                depth.save_ply(files["points"], camera, image=photo)
            if sink is not None:
                sink.log(depth, camera, image=photo)
            if writer is not None and camera is not None:
                writer.write(depth, camera, stamp_ns=index * _NS_PER_PHOTO, image=photo)
            known = depth.depth_m[depth.valid]
            median = float(known.median()) if known.numel() else None
            lines.append(f"{path}: {'no depth' if median is None else f'median depth {median:.2f} m'}")
            lines += [f"  {kind}: {file}" for kind, file in files.items()]
            named = {kind: str(file) for kind, file in files.items()}
            predictions.append({"image": str(path), "median_depth_m": median, "trained": depth.trained, "files": named})
    lines += [f"{kind}: {path}" for kind, path in recordings.items()]
    written = {kind: str(path) for kind, path in recordings.items()}
    return Result("\n".join(lines), {"predictions": predictions, "recordings": written})


def _outputs(photo: Path, args: argparse.Namespace) -> dict[str, Path]:
    files = {"depth_mm": args.out / f"{photo.stem}_depth.png", "picture": args.out / f"{photo.stem}_picture.png"}
    return files if args.intrinsics is None else {**files, "points": args.out / f"{photo.stem}.ply"}


def _check_recordings(recordings: Mapping[str, Path], intrinsics: str | None) -> None:
    for kind, path in recordings.items():
        if path.is_dir():
            raise ConfigError(f"--{kind} takes a file, {str(path)!r} is a folder")
    if "rerun" in recordings:
        from spaceclip_plugin.rerun_sink import import_rerun

        import_rerun()
    if "mcap" in recordings:
        from spaceclip_plugin.mcap_writer import import_writer

        import_writer()
        if intrinsics is None:
            raise ConfigError("--mcap writes the camera's intrinsics beside its depth; give --intrinsics, too")


def _check_names(photos: Sequence[Path], outputs: Mapping[Path, Mapping[str, Path]]) -> None:
    for photo in photos:
        if not photo.is_file():
            raise DataError(f"no such photo: {photo}")
    twice = [name for name, count in Counter(path.stem for path in photos).items() if count > 1]
    if twice:
        raise ConfigError(f"two photos are called {twice[0]!r}, and so would be their files; predict them separately")
    inputs = {photo.resolve() for photo in photos}
    for file in (file for files in outputs.values() for file in files.values()):
        if file.resolve() in inputs:
            raise ConfigError(f"{file} is one of the photos and would be overwritten; choose another name")


def _intrinsics(text: str | None, image_hw: tuple[int, int]) -> Intrinsics | None:
    if text is None:
        return None
    import numpy as np
    import torch

    source = Path(text)
    try:
        numbers = np.loadtxt(source).reshape(-1) if source.is_file() else np.array([float(x) for x in text.split(",")])
    except ValueError as error:
        raise ConfigError(
            f"--intrinsics takes FX,FY,CX,CY or a file with a 3x3 matrix, got {text!r}: {error}"
        ) from error
    if numbers.size == 9:
        return Intrinsics.from_matrix(torch.from_numpy(numbers.reshape(3, 3)), image_hw)
    if numbers.size != 4:
        raise ConfigError(f"--intrinsics takes 4 numbers or a 3x3 matrix, got {numbers.size} numbers in {text!r}")
    fx, fy, cx, cy = numbers.tolist()
    return Intrinsics(fx, fy, cx, cy, image_hw)
