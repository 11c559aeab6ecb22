"""`spaceclip demo`: see depth from an attached head, without any download."""

from __future__ import annotations

import argparse
from importlib import metadata
from pathlib import Path
from typing import Any

from spaceclip_plugin.cli.flags import add_overwrite
from spaceclip_plugin.cli.hosts import add_host, device_called, host_from
from spaceclip_plugin.cli.outputs import Result
from spaceclip_plugin.errors import ConfigError

GROUP = "spaceclip_plugin.demos"  # entry points: frozen dataclasses of settings with a method `run`
_ARENAS, _SCENES, _UNSEEN = 8, 800, 100


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Where to write; how much to drive, or to train."""
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("spaceclip-demo"),
        metavar="DIR",
        help="made if absent; an earlier demo in it is replaced (default: spaceclip-demo)",
    )
    add_overwrite(parser)
    parser.add_argument("--arenas", type=int, help=f"episodes to drive (default: {_ARENAS})")
    parser.add_argument("--train", action="store_true", help="train a head on a small CLIP with random weights instead")
    add_host(parser, required=False)
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
    names = ("scenes", "unseen", "epochs", "tower", "adapter") if trains else ("arenas",)
    settings = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    demo = _demo("training" if trains else "policy")(**settings)
    on: dict[str, Any] = {}
    if trains:
        on = {"host": None if args.host is None else host_from(args), "device": device_called(args.device)}
    report = demo.run(args.out, overwrite=args.overwrite, **on)
    files = {kind: str(path) for kind, path in report.files.items()}
    lines = [*report.lines, *(f"  {kind}: {path}" for kind, path in files.items())]
    return Result("\n".join(lines), {**report.figures, "files": files})


def _demo(name: str) -> Any:
    """The demo of an installed package, found through an entry point."""
    for point in metadata.entry_points(group=GROUP, name=name):
        return point.load()
    raise ConfigError(f"no demo called {name!r} is installed; reinstall spaceclip-plugin")
