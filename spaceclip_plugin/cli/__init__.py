"""The command `spaceclip`: one module per subcommand.

Data goes to standard output, messages and progress to standard error. Exit codes: 0 done, 1 failed, 2 wrong usage,
130 interrupted.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Sequence

from spaceclip_plugin import __version__
from spaceclip_plugin.cli import convert, demo, evaluate, export, inspect, predict, push, train, verify
from spaceclip_plugin.cli.outputs import Result
from spaceclip_plugin.errors import SpaceClipError

COMMANDS = (demo, inspect, train, evaluate, predict, convert, export, verify, push)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    parser = _parser()
    args = parser.parse_args(argv)
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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="spaceclip", description="Metric depth from the vision tower a VLA already runs."
    )
    parser.add_argument("--version", action="version", version=f"spaceclip_plugin {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for module in COMMANDS:
        command = commands.add_parser(module.NAME, help=module.HELP, description=module.HELP)
        module.add_arguments(command)
        command.add_argument("--json", action="store_true", help="print one JSON object instead of text")
        command.set_defaults(run=module.run)
    return parser
