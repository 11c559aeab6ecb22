"""`spaceclip train`: a depth head for a frozen host."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

from spaceclip_plugin.cli import arguments
from spaceclip_plugin.cli.result import Result
from spaceclip_plugin.evaluation.protocols import get_protocol
from spaceclip_plugin.head.architectures import ARCHITECTURES, DEFAULT_ARCHITECTURE
from spaceclip_plugin.training.losses import LOSSES
from spaceclip_plugin.training.recipe import PRECISIONS, Recipe

NAME = "train"
HELP = "Train a depth head on a frozen host; the defaults are the published loss and recipe."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Everything a run needs."""
    arguments.add_host(parser)
    arguments.add_lists(parser)
    default = Recipe()
    parser.add_argument("--data", type=Path, required=True, metavar="LIST", help="training list: rgb depth [focal]")
    parser.add_argument("--val", type=Path, required=True, metavar="LIST", help="list the best epoch is chosen on")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the run, made if absent")
    parser.add_argument("--arch", choices=sorted(ARCHITECTURES), default=DEFAULT_ARCHITECTURE)
    parser.add_argument("--epochs", type=int, default=default.epochs)
    parser.add_argument("--batch-size", type=int, default=default.batch_size)
    parser.add_argument("--lr", type=float, default=default.learning_rate, help="peak learning rate")
    parser.add_argument("--loss", choices=sorted(LOSSES), default=default.loss)
    parser.add_argument("--no-mirror", action="store_true", help="do not train on mirrored images")
    parser.add_argument("--precision", choices=PRECISIONS, default=default.precision)
    parser.add_argument("--seed", type=int, default=default.seed)


def run(args: argparse.Namespace) -> Result:
    """Check the recipe and the lists, load the host, train."""
    recipe = Recipe(
        epochs=args.epochs,
        batch_size=args.batch_size,
        learning_rate=args.lr,
        loss=args.loss,
        mirror=not args.no_mirror,
        precision=args.precision,
        seed=args.seed,
    )
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
        head = DepthHead.for_tower(tower, architecture=args.arch, base_model=args.host)
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
        "host_digest": result.host_digest,
        "host_unchanged": True,
        "seconds_caching": result.seconds_caching,
        "seconds_training": result.seconds_training,
        "skipped": arguments.skipped(train, validation),
    }
    text = (
        f"best epoch {result.best_epoch} of {recipe.epochs}: AbsRel {metrics.abs_rel:.4f}, RMSE {metrics.rmse:.3f} m, "
        f"delta1 {metrics.delta1:.3f} on {args.val.name} ({len(validation)} images, {protocol.name}, no flip)\n"
        f"host unchanged (sha256 {result.host_digest[:16]}…); caching {result.seconds_caching:.0f} s, "
        f"training {result.seconds_training:.0f} s\nhead: {result.folder}"
    )
    return Result(text, data)
