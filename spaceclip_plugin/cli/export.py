"""`spaceclip export`: a head as a file that runs without torch."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from spaceclip_plugin.cli.flags import add_head, add_overwrite
from spaceclip_plugin.cli.outputs import Result, check_apart, check_free, files_of_head
from spaceclip_plugin.depth.camera import focal_in_words
from spaceclip_plugin.depth.depth_map import KNOWN
from spaceclip_plugin.head import DepthHead, DepthHeadConfig

if TYPE_CHECKING:
    from spaceclip_plugin.bridges.onnx import OnnxFile


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The head, the file, and the size of the depth, which a head does not know."""
    add_head(parser, positional=True)
    parser.add_argument("--format", choices=("onnx",), default="onnx", help="default: onnx")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="of the ONNX file")
    add_overwrite(parser)
    size = parser.add_mutually_exclusive_group(required=True)
    size.add_argument(
        "--patch-size", type=int, metavar="N", help="depth is N times the grid: the tower's patch (`inspect` shows it)"
    )
    size.add_argument("--size", type=int, nargs=2, metavar=("H", "W"), help="depth is H x W pixels, whatever the grid")
    parser.add_argument(
        "--focal-length",
        type=_focal_length,
        metavar="FX,FY",
        help="give depth in metres of that camera: its focal lengths over the width and height of the image the tower "
        "sees (default: of the camera that the head assumes)",
    )
    parser.add_argument(
        "--grid", type=int, nargs=2, metavar=("H", "W"), default=(14, 14), help="grid to compare at (default: 14 14)"
    )


def _focal_length(text: str) -> tuple[float, float]:
    try:
        x, y = (float(part) for part in text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"expected FX,FY such as 0.83,1.11, got {text!r}") from error
    return x, y


def run(args: argparse.Namespace) -> Result:
    """Read, write, compare."""
    from spaceclip_plugin.bridges.onnx import export_onnx

    check_apart({args.out: "the ONNX file"}, inputs=files_of_head(args.head))
    check_free([args.out], overwrite=args.overwrite)
    head = DepthHead.from_pretrained(args.head)
    written = export_onnx(
        head,
        args.out,
        patch_size=args.patch_size,
        output_hw=None if args.size is None else tuple(args.size),
        grid_hw=tuple(args.grid),
        focal_length=args.focal_length,
    )
    config = head.config
    data = {**asdict(written), "path": str(written.path), "trained_on": config.trained_on, "config": config.to_dict()}
    return Result("\n".join(_lines(written, config)), data)


def _lines(written: OnnxFile, config: DepthHeadConfig) -> list[str]:
    sizes = {**written.inputs, "depth_m": written.output}
    shapes = [f"  {name:<10} {' x '.join(map(str, shape))}" for name, shape in sizes.items()]
    compared = [
        f"  batch {case.batch}, grid {case.grid_hw[0]}x{case.grid_hw[1]}: ONNX Runtime and torch differ by at most "
        f"{case.difference_m:.2g} m, allowed {case.allowed_m:.2g} m"
        + "".join(f"; {name} by {difference:.2g}" for name, difference in case.others.items())
        for case in written.comparisons
    ]
    camera = None
    if written.focal_length is not None:
        whose = "the camera given" if written.lens == KNOWN else "the camera the head assumes"
        camera = f"{whose}, focal length {focal_in_words(written.focal_length)}"
    return [
        f"{written.path}: {config.architecture}, {written.file_bytes / 1e6:.1f} MB, opset {written.opset}, float32",
        *shapes,
        f"  beside it: {', '.join(written.beside)}",
        *([] if camera is None else [f"  metres of {camera}"]),
        f"  trained on {config.trained_on or 'nothing: random weights'}",
        *compared,
    ]
