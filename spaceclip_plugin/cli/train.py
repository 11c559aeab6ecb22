"""`spaceclip train`: a depth head for a frozen host."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from spaceclip_plugin.cli import arguments
from spaceclip_plugin.cli.result import Result
from spaceclip_plugin.errors import ConfigError, nearest
from spaceclip_plugin.evaluation.calibration import Calibration
from spaceclip_plugin.evaluation.protocols import get_protocol
from spaceclip_plugin.head.architectures import ARCHITECTURES, DEFAULT_ARCHITECTURE, architecture
from spaceclip_plugin.training.losses import LOSSES
from spaceclip_plugin.training.recipe import PRECISIONS, RECIPES, Recipe

NAME = "train"
PUBLISHED = "space-clip"
HELP = "Train a depth head on a frozen host; --recipe published for the published loss and settings."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Everything a run needs."""
    arguments.add_host(parser)
    arguments.add_lists(parser)
    parser.add_argument("--data", type=Path, required=True, metavar="LIST", help="training list: rgb depth [focal]")
    parser.add_argument("--val", type=Path, required=True, metavar="LIST", help="list the best epoch is chosen on")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the run, made if absent")
    parser.add_argument(
        "--arch",
        choices=sorted(ARCHITECTURES),
        help=f"default: {DEFAULT_ARCHITECTURE}; {PUBLISHED} with --recipe published",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="an option of the head, VALUE as JSON: --set attention=0 --set taps=[3,6,9,12]; may be repeated",
    )
    _add_recipe(parser)


def _add_recipe(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("recipe")
    group.add_argument(
        "--recipe",
        choices=tuple(RECIPES),
        default="recommended",
        help="what every setting below is unless it is given (default: recommended; published: arXiv 2601.17657)",
    )
    group.add_argument("--epochs", type=int, metavar="N", help=f"passes over the images ({_settings('epochs')})")
    group.add_argument("--batch-size", type=int, metavar="N", help=f"images per step ({_settings('batch_size')})")
    group.add_argument("--lr", type=float, metavar="X", help=f"peak learning rate ({_settings('learning_rate')})")
    group.add_argument("--weight-decay", type=float, metavar="X", help=f"AdamW's ({_settings('weight_decay')})")
    group.add_argument("--ema-decay", type=float, metavar="X", help=f"of averaged weights ({_settings('ema_decay')})")
    group.add_argument("--loss", choices=sorted(LOSSES), help=f"what is minimised ({_settings('loss')})")
    group.add_argument(
        "--views",
        type=int,
        metavar="N",
        help="versions of an image that are cached: 1 as photographed, 2 also mirrored, more also random crops in "
        f"other colours ({_settings('views')})",
    )
    group.add_argument(
        "--target-side",
        type=int,
        metavar="N",
        help=f"learn from depth maps of at most this many pixels a side; 0: as they are ({_settings('target_side')})",
    )
    group.add_argument("--precision", choices=PRECISIONS, help=f"of the head's arithmetic ({_settings('precision')})")
    group.add_argument("--seed", type=int, metavar="N", help=f"of weights, order and views ({_settings('seed')})")


def _settings(field: str) -> str:
    """What the recipes say of a field: "recommended 8, published 32", or one value where they agree."""
    values = {name: getattr(recipe(), field) for name, recipe in RECIPES.items()}
    agreed = set(values.values())
    return f"{agreed.pop()}" if len(agreed) == 1 else ", ".join(f"{name} {value}" for name, value in values.items())


class Settings(NamedTuple):
    """What the arguments say of a run, besides host and data."""

    recipe: Recipe
    architecture: str
    options: dict[str, Any]


def settings(args: argparse.Namespace) -> Settings:
    """Recipe, architecture and options of the head, checked before anything is loaded.

    Raises:
        ConfigError: an option that the architecture does not have, or an impossible value.
    """
    name = args.arch or (PUBLISHED if args.recipe == "published" else DEFAULT_ARCHITECTURE)
    return Settings(_recipe(args), name, _options(name, args.set))


def _recipe(args: argparse.Namespace) -> Recipe:
    given = {
        "epochs": args.epochs,
        "batch_size": args.batch_size,
        "learning_rate": args.lr,
        "weight_decay": args.weight_decay,
        "ema_decay": args.ema_decay,
        "loss": args.loss,
        "views": args.views,
        "precision": args.precision,
        "seed": args.seed,
    }
    given = {field: value for field, value in given.items() if value is not None}
    if args.target_side is not None:
        given["target_side"] = args.target_side or None
    return RECIPES[args.recipe](**given)


def run(args: argparse.Namespace) -> Result:
    """Check the recipe and the lists, load the host, train."""
    recipe, name, options = settings(args)
    protocol = get_protocol(args.protocol)
    train, validation = (arguments.depth_list(path, args, protocol) for path in (args.data, args.val))
    host = arguments.host_from(args)

    import torch

    from spaceclip_plugin import registry
    from spaceclip_plugin.head.depth_head import DepthHead
    from spaceclip_plugin.training.trainer import DepthTrainer

    tower = registry.choose_tower(host, tower=args.tower, adapter=args.adapter)
    with torch.random.fork_rng():
        torch.manual_seed(recipe.seed)
        head = DepthHead.for_tower(tower, architecture=name, base_model=args.host, **options)
    head.to(next(host.parameters()).device)
    trainer = DepthTrainer(host, head, recipe=recipe, protocol=protocol, tower=args.tower, adapter=args.adapter)
    details = {
        "host": args.host,
        "host_weights": None if args.host_weights is None else args.host_weights.name,
        "data": args.data.name,
        "val": args.val.name,
        "skipped": arguments.skipped(train, validation),
    }
    trained_on = f"{args.data.name} ({len(train)} images)"
    result = trainer.fit(train, validation, args.out, trained_on=trained_on, details=details)
    metrics = result.validation
    data = {
        "head": str(result.folder),
        "best_epoch": result.best_epoch,
        "validation": dataclasses.asdict(metrics),
        "uncertainty": None if result.calibration is None else dataclasses.asdict(result.calibration),
        "host_digest": result.host_digest,
        "host_unchanged": True,
        "seconds_caching": result.seconds_caching,
        "seconds_training": result.seconds_training,
        "skipped": arguments.skipped(train, validation),
    }
    text = (
        f"best epoch {result.best_epoch} of {recipe.epochs}: AbsRel {metrics.abs_rel:.4f}, RMSE {metrics.rmse:.3f} m, "
        f"delta1 {metrics.delta1:.3f} on {args.val.name} ({len(validation)} images, {protocol.name}, no flip)\n"
        f"{_uncertainty(result.calibration)}"
        f"host unchanged (sha256 {result.host_digest[:16]}…); caching {result.seconds_caching:.0f} s, "
        f"training {result.seconds_training:.0f} s\nhead: {result.folder}"
    )
    return Result(text, data)


def _options(name: str, settings: Sequence[str]) -> dict[str, Any]:
    """What `--set` says of a head, checked before anything is loaded."""
    kind = architecture(name).options
    known = [field.name for field in dataclasses.fields(kind)]
    options: dict[str, Any] = {}
    for setting in settings:
        key, _, value = setting.partition("=")
        if key not in known:
            hint = nearest(key, known)
            raise ConfigError(f"--set {setting}: {name} has no option {key!r}{hint}; it has {', '.join(known)}")
        try:
            options[key] = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"--set {setting[:80]}: the value is not JSON, as 3, true or [1,2]: {error}") from error
    kind(**options)
    return options


def _uncertainty(calibration: Calibration | None) -> str:
    if calibration is None:
        return ""
    checked = calibration.cross_checked or calibration.after
    held = " and ".join(f"{100 * share:.1f} % in {100 * level:.0f} % intervals" for level, share in checked.items())
    how = "cross-checked" if calibration.cross_checked else "on the image it was fitted on"
    return f"uncertainty rescaled by {calibration.factor:.3f}: {held} ({how})\n"
