"""`spaceclip teach`: depth from a teacher, for photos that have none."""

from __future__ import annotations

import argparse
import dataclasses
import os
import shlex
import sys
from pathlib import Path
from typing import Any

from spaceclip_plugin.cli.data import PHOTOS_HELP
from spaceclip_plugin.cli.hosts import device_called
from spaceclip_plugin.cli.outputs import Result
from spaceclip_plugin.data import parse_source
from spaceclip_plugin.errors import ConfigError
from spaceclip_plugin.teaching import TaughtRecord, TeachOptions, load_teacher, teach
from spaceclip_plugin.training.processes import check_launched

_SHOWN = 5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which photos, who teaches, and what is kept."""
    parser.add_argument("--data", required=True, metavar="SOURCE", help=PHOTOS_HELP)
    parser.add_argument("--teacher", required=True, metavar="NAME", help="hf:ID-or-folder, a metric depth estimator")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="what taught:DIR opens; made if absent")
    parser.add_argument("--second-teacher", metavar="NAME", help="asked besides: where it disagrees, depth is doubtful")
    parser.add_argument("--device", metavar="NAME", help="cpu, cuda, cuda:1, mps (default: cuda where there is one)")
    parser.add_argument(
        "--keep", type=float, metavar="X", help="share of pixels kept, the least doubtful (default: 0.8)"
    )
    parser.add_argument(
        "--depth-range", type=_range, metavar="MIN,MAX", help="metres that are kept (default: 0.05,100)"
    )
    parser.add_argument("--mask", type=Path, metavar="FILE", help="picture, white where nothing is learnt: the gripper")
    parser.add_argument(
        "--ranges", type=Path, metavar="FILE", help="CSV index,u_px,v_px,depth_m of known distances, for the scale"
    )
    parser.add_argument("--units-per-metre", type=float, metavar="X", help="of measured 16-bit depth (default: 1000)")
    parser.add_argument("--camera", metavar="NAME", help="whose photos, of a LeRobot data set with several")
    parser.add_argument(
        "--stride", type=int, metavar="N", help="every how many frames of a LeRobot data set one is taken"
    )
    parser.add_argument("--episodes", metavar="N-M,…", help="of a LeRobot data set")
    parser.add_argument("--skip-bad", action="store_true", help="leave out photos and clips that cannot be used")
    parser.add_argument("--workers", type=int, default=0, metavar="N", help="processes that read ahead (default: 0)")


def run(args: argparse.Namespace) -> Result | None:
    """Ask, scale, check; None in all processes but the main one."""
    check_launched()
    data = _spec(args)
    changes = {
        "keep": args.keep, "range_m": args.depth_range, "mask": args.mask, "ranges": args.ranges,
        "units_per_metre": args.units_per_metre, "skip_bad": args.skip_bad, "workers": args.workers,
    }  # fmt: skip
    options = TeachOptions(**{name: value for name, value in changes.items() if value is not None})
    device = device_called(args.device)
    teacher = load_teacher(args.teacher, device=device)
    second = None if args.second_teacher is None else load_teacher(args.second_teacher, device=device)
    try:
        record = teach(data, teacher, args.out, second=second, device=device, options=options)
    except KeyboardInterrupt as error:
        said = shlex.join(["spaceclip", *sys.argv[1:]])
        raise KeyboardInterrupt(f"nothing is lost; continue with: {said}") from error
    if os.environ.get("RANK", "0") != "0":  # set by `accelerate launch` and torchrun
        return None
    return _result(record, args.out)


def _spec(args: argparse.Namespace) -> Any:
    """The data, with what flags say of it."""
    spec = parse_source(args.data)
    given = {name: getattr(args, name) for name in ("camera", "stride", "episodes") if getattr(args, name) is not None}
    known = {field.name for field in dataclasses.fields(spec)}
    for name in given:
        if name not in known:
            raise ConfigError(f"--{name} is for LeRobot data sets, and {args.data} is none; leave it out")
    return dataclasses.replace(spec, **given)


def _range(words: str) -> tuple[float, float]:
    low, _, high = words.partition(",")
    return float(low), float(high)


def _result(record: TaughtRecord, out: Path) -> Result:
    clips = [dataclasses.asdict(clip) for clip in record.clips]
    check = None if record.check is None else dataclasses.asdict(record.check)
    data = {
        "out": str(out), "images": record.images, "usable": record.usable, "left_out": list(record.left_out),
        "clips": clips, "check": check, "teachers": record.cards,
    }  # fmt: skip
    lines = [f"{record.usable} of {record.images} photos with depth by {record.teacher.name}, {record.teacher.lens}"]
    for clip in record.clips[:_SHOWN]:
        named = clip.clip or "all photos"
        fitted = f"{clip.points} pixels, {100 * clip.agreeing:.0f} % agree" if clip.points else "nothing fitted"
        lines.append(f"  {named} ({clip.images}): scale {clip.scale:.3f} from {clip.based_on}, {fitted}")
    if len(record.clips) > _SHOWN:
        lines.append(f"  … and {len(record.clips) - _SHOWN} more clips, in teacher.json")
    if record.check is None:
        lines.append("not checked: nothing was measured, and nobody knows how good this depth is")
    else:
        found = record.check
        before = "" if found.abs_rel_as_given is None else f" ({found.abs_rel_as_given:.4f} as the teacher gives it)"
        lines.append(
            f"against measured depth of {found.images} photos, at kept pixels, one scale fitted per clip: AbsRel "
            f"{found.abs_rel:.4f}{before}, delta1 {found.delta1:.3f}"
        )
    lines += [str(card["terms"]) for card in record.cards]
    return Result("\n".join([*lines, f"train on it: --data taught:{out}"]), data)
