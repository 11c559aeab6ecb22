"""`spaceclip demo`: see depth from an attached head, without any download."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

from spaceclip_plugin.cli import arguments, outputs
from spaceclip_plugin.cli.result import Result
from spaceclip_plugin.errors import ConfigError
from spaceclip_plugin.evaluation import DepthMetrics

NAME = "demo"
_ARENAS, _SCENES, _UNSEEN = 8, 800, 100
HELP = (
    "Drive a small embedded policy, read depth from its frozen tower and compare it with the truth: seconds, no "
    "download. With --train, or a --host: train a head on rendered scenes."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Where to write; how much to drive, or to train."""
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("spaceclip-demo"),
        metavar="DIR",
        help="made if absent; an earlier demo in it is replaced (default: spaceclip-demo)",
    )
    outputs.add_overwrite(parser)
    parser.add_argument("--arenas", type=int, help=f"episodes to drive (default: {_ARENAS})")
    parser.add_argument("--train", action="store_true", help="train a head on a small CLIP with random weights instead")
    arguments.add_host(parser, required=False)
    parser.add_argument("--scenes", type=int, help=f"with --train: training scenes (default: {_SCENES})")
    parser.add_argument("--unseen", type=int, help=f"with --train: scenes to measure on (default: {_UNSEEN})")
    parser.add_argument("--epochs", type=int, help="with --train: passes over the training scenes")


def run(args: argparse.Namespace) -> Result:
    """Drive, or train."""
    if args.host is None and (args.host_weights or args.tower or args.adapter):
        raise ConfigError("--host-weights, --tower and --adapter say more about a --host, and none is given")
    trains = args.train or args.host is not None
    for name in ("arenas",) if trains else ("scenes", "unseen", "epochs"):
        if getattr(args, name) is not None:
            raise ConfigError(f"--{name} is for the demo {'without' if trains else 'with'} --train or --host")
    return _trained(args) if trains else _driven(args)


def _driven(args: argparse.Namespace) -> Result:
    from spaceclip_worlds.demos.policy_demo import run_demo

    arenas = _ARENAS if args.arenas is None else args.arenas
    if arenas < 1:
        raise ConfigError(f"--arenas is a number of episodes, 1 or more, got {arenas}")
    result = run_demo(args.out, arenas=arenas, overwrite=args.overwrite)
    ended = ", ".join(f"{name} {count}" for name, count in result.outcomes.items())
    identical = "the same bits" if result.actions_identical else "NOT the same"
    lines = [
        f"{result.arenas} unseen arenas, {result.frames} images, metric scale, one forward",
        _row(result.predicted, "depth from the policy's frozen tower"),
        _row(result.constant, "constant median of these very images"),
        f"driven behind the depth safety filter: {ended}",
        f"actions with and without taps: {identical}",
        *(f"  {kind}: {path}" for kind, path in result.files.items()),
    ]
    data = {**dataclasses.asdict(result), "files": {kind: str(path) for kind, path in result.files.items()}}
    return Result("\n".join(lines), data)


def _trained(args: argparse.Namespace) -> Result:
    from spaceclip_worlds.demos import training_demo

    scenes = _SCENES if args.scenes is None else args.scenes
    unseen = _UNSEEN if args.unseen is None else args.unseen
    if scenes < 16 or unseen < training_demo.SHOWN:
        raise ConfigError(f"the demo needs at least 16 training and {training_demo.SHOWN} unseen scenes")
    recipe = training_demo.RECIPE
    if args.epochs is not None:
        recipe = dataclasses.replace(recipe, epochs=args.epochs)
    small = args.host is None
    host = training_demo.small_clip_host().to(arguments.device(args)) if small else arguments.host_from(args)
    result = training_demo.run_demo(
        host,
        args.out,
        tower=args.tower,
        adapter=args.adapter,
        scenes=scenes,
        unseen=unseen,
        recipe=recipe,
        overwrite=args.overwrite,
    )
    lines = [
        f"{result.unseen} unseen scenes, metric scale, one forward",
        _row(result.predicted, f"depth from {'a random-weight CLIP tower' if small else args.host}"),
        _row(result.per_pixel, "per-pixel mean of the training scenes"),
        _row(result.constant, "constant median of the training scenes"),
        *(f"  {kind}: {path}" for kind, path in result.files.items()),
    ]
    data = {
        "unseen_scenes": result.unseen,
        "predicted": dataclasses.asdict(result.predicted),
        "per_pixel_mean": dataclasses.asdict(result.per_pixel),
        "constant_median": dataclasses.asdict(result.constant),
        "files": {kind: str(path) for kind, path in result.files.items()},
    }
    return Result("\n".join(lines), data)


def _row(metrics: DepthMetrics, label: str) -> str:
    return f"  AbsRel {metrics.abs_rel:.3f}  RMSE {metrics.rmse:.3f} m  delta1 {metrics.delta1:.3f}  {label}"
