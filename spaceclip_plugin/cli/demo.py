"""`spaceclip demo`: see depth from an attached head, without any download."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

from spaceclip_plugin.cli import arguments
from spaceclip_plugin.cli.result import Result

NAME = "demo"
HELP = "Render scenes, train a head on a small frozen host, and show depth of unseen scenes. No download."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Where to write, another host, and a smaller run for the impatient."""
    arguments.add_host(parser, required=False)
    parser.add_argument("--out", type=Path, default=Path("spaceclip-demo"), metavar="DIR")
    parser.add_argument("--scenes", type=int, default=800, help="training scenes (default: 800)")
    parser.add_argument("--unseen", type=int, default=100, help="scenes to measure on (default: 100)")
    parser.add_argument("--epochs", type=int, help="passes over the training scenes")


def run(args: argparse.Namespace) -> Result:
    """Run the demo and say how it did beside two guesses that look at no image."""
    from spaceclip_plugin import demo
    from spaceclip_plugin.errors import ConfigError

    if args.scenes < 16 or args.unseen < demo.SHOWN:
        raise ConfigError(f"the demo needs at least 16 training and {demo.SHOWN} unseen scenes")
    recipe = demo.RECIPE if args.epochs is None else dataclasses.replace(demo.RECIPE, epochs=args.epochs)
    if args.host is None and (args.host_weights or args.tower or args.adapter):
        raise ConfigError("--host-weights, --tower and --adapter say more about a --host, and none is given")
    host = demo.small_clip_host().to(arguments.device(args)) if args.host is None else arguments.host_from(args)
    result = demo.run_demo(
        host,
        args.out,
        tower=args.tower,
        adapter=args.adapter,
        scenes=args.scenes,
        unseen=args.unseen,
        recipe=recipe,
    )
    name = "a random-weight CLIP tower" if args.host is None else args.host
    rows = (
        (f"depth from {name}", result.predicted),
        ("per-pixel mean of the training scenes", result.per_pixel),
        ("constant median of the training scenes", result.constant),
    )
    lines = [f"{result.unseen} unseen scenes, metric scale, one forward"]
    lines += [f"  AbsRel {m.abs_rel:.3f}  RMSE {m.rmse:.3f} m  delta1 {m.delta1:.3f}  {label}" for label, m in rows]
    lines += [f"  {kind}: {path}" for kind, path in result.files.items()]
    data = {
        "unseen_scenes": result.unseen,
        "predicted": dataclasses.asdict(result.predicted),
        "per_pixel_mean": dataclasses.asdict(result.per_pixel),
        "constant_median": dataclasses.asdict(result.constant),
        "files": {kind: str(path) for kind, path in result.files.items()},
    }
    return Result("\n".join(lines), data)
