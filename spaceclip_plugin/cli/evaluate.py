"""`spaceclip eval`: how good is a head on a list?"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

from spaceclip_plugin.cli import arguments
from spaceclip_plugin.cli.result import Result
from spaceclip_plugin.evaluation.protocols import get_protocol

NAME = "eval"
HELP = "Score a head on a list; metric scale, never aligned."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Host, head, list and protocol."""
    arguments.add_host(parser)
    arguments.add_lists(parser)
    parser.add_argument("--head", type=Path, required=True, metavar="DIR", help="folder of a trained head")
    parser.add_argument("--data", type=Path, required=True, metavar="LIST", help="list: rgb depth [focal]")
    parser.add_argument("--flip", action="store_true", help="average with the mirrored image: two forwards")


def run(args: argparse.Namespace) -> Result:
    """Evaluate one image at a time."""
    protocol = get_protocol(args.protocol)
    samples = arguments.depth_list(args.data, args, protocol)
    host = arguments.host_from(args)

    from tqdm.auto import tqdm

    from spaceclip_plugin.attachment import attach_depth_head
    from spaceclip_plugin.evaluation.evaluate import evaluate

    with attach_depth_head(host, args.head, tower=args.tower, adapter=args.adapter) as attachment:
        with tqdm(total=len(samples), desc="evaluating", unit="image") as bar:
            result = evaluate(attachment, samples, protocol=protocol, flip=args.flip, progress=bar.update)
        trained = attachment.head.trained
    metrics = dataclasses.asdict(result.mean)
    data = {
        **metrics,
        "images": len(result.per_image),
        "protocol": result.protocol,
        "flip": result.flip,
        "coverage": result.coverage,
        "trained": trained,
        "skipped": arguments.skipped(samples),
    }
    forwards = "two forwards (flip)" if args.flip else "one forward"
    table = "  ".join(f"{name} {value:.4f}" for name, value in metrics.items())
    text = f"{table}\n{len(result.per_image)} images, protocol {result.protocol}, {forwards}, metric scale"
    if result.coverage is not None:
        held = ", ".join(f"{100 * level:.0f} % {100 * share:.1f} %" for level, share in result.coverage.items())
        text += f"\nshare of the pixels in intervals of the predicted uncertainty: {held}"
    return Result(text, data)
