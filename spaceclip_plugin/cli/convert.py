"""`spaceclip convert`: a published SPACE-CLIP checkpoint becomes a head of this package."""

from __future__ import annotations

import argparse
from pathlib import Path

from spaceclip_plugin.cli.flags import add_overwrite
from spaceclip_plugin.cli.outputs import Result, check_apart, check_free
from spaceclip_plugin.head import DepthHead
from spaceclip_plugin.head.folder import CONFIG_NAME, WEIGHTS_NAME


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The checkpoint, the folder, and the taps, which a checkpoint does not tell."""
    parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the head, made if absent")
    add_overwrite(parser)
    parser.add_argument("--semantic-taps", type=int, nargs="+", metavar="N", help="deepest first (default: published)")
    parser.add_argument("--structural-taps", type=int, nargs="*", metavar="N", help="default: published")


def run(args: argparse.Namespace) -> Result:
    """Read, check, write."""
    files = [args.out / CONFIG_NAME, args.out / WEIGHTS_NAME]
    check_apart(dict.fromkeys(files, "the head"), inputs=[args.checkpoint])
    check_free(files, overwrite=args.overwrite)
    head = DepthHead.from_spaceclip_checkpoint(
        args.checkpoint,
        semantic_taps=None if args.semantic_taps is None else tuple(args.semantic_taps),
        structural_taps=None if args.structural_taps is None else tuple(args.structural_taps),
    )
    folder = head.save_pretrained(args.out)
    config = head.config
    text = f"{folder}: {config.architecture}, width {config.width}, taps {list(head.taps)}, context {config.context}"
    return Result(text, {"head": str(folder), "config": config.to_dict()})
