"""The flags of `spaceclip train`."""

from __future__ import annotations

import argparse
from pathlib import Path

from spaceclip_plugin.cli import arguments
from spaceclip_plugin.data.augmentation import AUGMENTATIONS
from spaceclip_plugin.head.architectures import ARCHITECTURES, DEFAULT_ARCHITECTURE
from spaceclip_plugin.training.config.recipe import CACHES, PRECISIONS, RECIPES
from spaceclip_plugin.training.losses.registry import LOSSES
from spaceclip_plugin.training.processes import TRACKERS

PUBLISHED = "space-clip"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Everything a run needs; no flag has a default, so that what is not given is left to the config."""
    parser.add_argument("--config", type=Path, metavar="FILE", help="YAML with settings; flags go before it")
    parser.add_argument(
        "--resume", type=Path, metavar="DIR", help="continue the stopped run in DIR to its end, with its own settings"
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder of the run, made if absent")
    arguments.add_host(parser, required=False)
    arguments.add_lists(parser, protocol=None)
    group = parser.add_argument_group("training data", f"SOURCE is {arguments.SOURCE_HELP}; each flag may be repeated")
    for flag, purpose in (
        ("--data", "what the head learns from"),
        ("--val", "what the best epoch is chosen on"),
        ("--test", "what the best head is scored on, once, at the end"),
    ):
        group.add_argument(flag, action="append", metavar="SOURCE", help=purpose)
    group.add_argument(
        "--select-on-test",
        action="store_true",
        default=None,
        help="choose the best epoch on data that is named like a test set, and say so in the record",
    )
    _add_head(parser)
    _add_recipe(parser)
    _add_running(parser)


def _add_head(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("head")
    group.add_argument(
        "--arch",
        choices=sorted(ARCHITECTURES),
        help=f"default: {DEFAULT_ARCHITECTURE}; {PUBLISHED} with a published --recipe",
    )
    group.add_argument(
        "--set",
        action="append",
        metavar="NAME=VALUE",
        help="an option of the head, VALUE as JSON: --set attention=0 --set taps=[3,6,9,12]; may be repeated",
    )


def _add_recipe(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("recipe")
    group.add_argument(
        "--recipe",
        choices=tuple(RECIPES),
        help="what every setting below is unless it is given (default: recommended; published: arXiv 2601.17657)",
    )
    group.add_argument("--epochs", type=int, metavar="N", help=f"passes over the images ({_told('epochs')})")
    group.add_argument("--batch-size", type=int, metavar="N", help=f"images per step ({_told('batch_size')})")
    group.add_argument(
        "--accumulation", type=int, metavar="N", help=f"micro-batches a step is made in ({_told('accumulation')})"
    )
    group.add_argument("--lr", type=float, metavar="X", help=f"peak learning rate ({_told('learning_rate')})")
    group.add_argument("--weight-decay", type=float, metavar="X", help=f"AdamW's ({_told('weight_decay')})")
    group.add_argument("--ema-decay", type=float, metavar="X", help=f"of averaged weights ({_told('ema_decay')})")
    group.add_argument("--loss", choices=sorted(LOSSES), help=f"what is minimised ({_told('loss')})")
    group.add_argument(
        "--augmentation", choices=tuple(AUGMENTATIONS), help=f"what versions differ in ({_told('augmentation')})"
    )
    group.add_argument(
        "--views",
        type=int,
        metavar="N",
        help="versions of an image: 1 as photographed, 2 also mirrored, more also random ones; one is drawn in every "
        f"epoch ({_told('views')})",
    )
    group.add_argument(
        "--features",
        choices=CACHES,
        help=f"what the tower's features are kept as; none: not kept, the tower runs at every step ({_told('cache')})",
    )
    group.add_argument(
        "--target-side",
        type=int,
        metavar="N",
        help=f"learn from depth maps of at most this many pixels a side; 0: as they are ({_told('target_side')})",
    )
    group.add_argument("--precision", choices=PRECISIONS, help=f"of the head's arithmetic ({_told('precision')})")
    group.add_argument("--seed", type=int, metavar="N", help=f"of weights, order and views ({_told('seed')})")


def _add_running(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("running", "What changes no result.")
    group.add_argument("--workers", type=int, metavar="N", help="processes that read data ahead (default: 0)")
    group.add_argument(
        "--save-every", type=int, metavar="STEPS", help="steps between checkpoints (default: only at every epoch's end)"
    )
    group.add_argument(
        "--cache", type=Path, metavar="DIR", help="folder of features that other runs can use (default: the run's own)"
    )
    group.add_argument("--log-with", choices=TRACKERS, help="also log to this (default: only to the run's folder)")


def _told(field: str) -> str:
    """What the recipes say of a field: "recommended 8, published 32", or one value where they agree."""
    values = {name: getattr(recipe(), field) for name, recipe in RECIPES.items()}
    agreed = set(values.values())
    return f"{agreed.pop()}" if len(agreed) == 1 else ", ".join(f"{name} {value}" for name, value in values.items())
