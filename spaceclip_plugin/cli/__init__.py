"""The command `spaceclip`: one module per subcommand, imported when it is the one that is asked for.

Data goes to standard output, messages and progress to standard error. Exit codes: 0 done, 1 failed, 2 wrong usage,
130 interrupted.
"""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import sys
from collections.abc import Sequence

from spaceclip_plugin import __version__
from spaceclip_plugin.cli.outputs import Result
from spaceclip_plugin.errors import SpaceClipError

__all__ = ["main"]

_COMMANDS = {
    "demo": "Drive a small embedded policy, read depth from its frozen tower and compare it with the truth: seconds, "
    "no download. With --train, or a --host: train a head on rendered scenes.",
    "inspect": "Show the vision towers of a host: adapter, size, grid, context, input statistics, taps; and if a head "
    "fits.",
    "teach": "Have a metric depth estimator give depth to photos that have none, for `train --data taught:DIR`.",
    "train": "Train a depth head on a frozen host; --recipe published for the published loss and settings.",
    "eval": "Score a head on a list or other data; metric scale, never aligned.",
    "predict": "Write depth of photos: 16-bit PNG in millimetres, a picture, and a point cloud when intrinsics are "
    "given; or of a video, as a video.",
    "annotate": "Write a LeRobot data set anew with the depth that a head gives of a camera's photos.",
    "convert": "Convert a published SPACE-CLIP checkpoint (.pt) into a head: config.json and model.safetensors.",
    "export": "Write a head as an ONNX file, hidden states to depth; done when ONNX Runtime gives torch's depth with "
    "it.",
    "heads": "List the heads that come with the package, to be named embedded:NAME: tower, range, score, data.",
    "verify": "Show what a head is and what it fits, and check its digest; fails where its files are not whole.",
    "push": "Publish the head of a finished run, or of a folder, on the Hugging Face Hub with a model card.",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command, whose words are those of the process by default; returns the exit code.

    Example:
        >>> main(["verify", "./absent"])  # what is wrong is said on standard error
        1
    """
    words = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(
        prog="spaceclip", description="Metric depth from the vision tower a VLA already runs."
    )
    parser.add_argument("--version", action="version", version=f"spaceclip_plugin {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, about in _COMMANDS.items():
        command = commands.add_parser(name, help=about, description=about)
        if words[:1] == [name]:
            module = importlib.import_module(f"{__name__}.{'evaluate' if name == 'eval' else name}")
            module.add_arguments(command)
            command.add_argument("--json", action="store_true", help="print one JSON object instead of text")
            command.set_defaults(run=module.run)
    return _run(parser, parser.parse_args(words))


def _run(parser: argparse.ArgumentParser, args: argparse.Namespace) -> int:
    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s", stream=sys.stderr)
    logging.getLogger("spaceclip_plugin").setLevel(logging.INFO)
    logging.getLogger().setLevel(logging.WARNING)
    try:
        result: Result | None = args.run(args)
    except argparse.ArgumentError as error:  # what only the whole of the arguments shows
        parser.error(f"{args.command}: {error}")
    except (SpaceClipError, OSError) as error:  # OSError: a full disk, a folder that cannot be written
        sys.stderr.write(f"spaceclip {args.command}: {error}\n")
        return 1
    except KeyboardInterrupt as error:
        hint = f"; {error}" if str(error) else ""
        sys.stderr.write(f"spaceclip {args.command}: interrupted{hint}\n")
        return 130
    if result is None:  # of several processes, one speaks
        return 0
    sys.stdout.write((json.dumps(result.data, allow_nan=False) if args.json else result.text) + "\n")
    if result.failure is not None:
        sys.stdout.flush()  # what was done comes before what was not, in one terminal, too
        sys.stderr.write(f"spaceclip {args.command}: {result.failure}\n")
        return 1
    return 0
