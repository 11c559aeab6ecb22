"""`spaceclip push`: a head goes to the Hugging Face Hub, with a model card made from its run."""

from __future__ import annotations

import argparse
from pathlib import Path

from spaceclip_plugin.cli.outputs import Result
from spaceclip_plugin.errors import ConfigError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What, where to, and on which terms."""
    parser.add_argument("folder", type=Path, metavar="RUN", help="folder of a finished run, or of a head alone")
    parser.add_argument("repo", metavar="ORG/NAME", help="repository; made if absent")
    parser.add_argument("--private", action="store_true", help="a repository that is made now is private")
    parser.add_argument("--create-pr", action="store_true", help="propose the head as a pull request")
    parser.add_argument("--commit-message", metavar="TEXT")
    parser.add_argument("--revision", metavar="BRANCH", help="default: main")
    parser.add_argument("--license", metavar="ID", help="of the weights, as the Hub names it: apache-2.0")
    parser.add_argument("--data-license", metavar="TEXT", help="terms of the training data, in a sentence")
    parser.add_argument("--dataset", action="append", default=[], metavar="ID", help="of the training data on the Hub")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="PNG for the card (default: the run's)")


def run(args: argparse.Namespace) -> Result:
    """Read strictly, then push."""
    from spaceclip_plugin.head import CardDetails, DepthHead
    from spaceclip_plugin.head.folder import CONFIG_NAME
    from spaceclip_plugin.training.run.folder import FinishedRun

    picture: Path | None = args.picture
    if (args.folder / CONFIG_NAME).is_file():
        head, record = DepthHead.from_pretrained(args.folder), None
    else:
        finished = FinishedRun.open(args.folder)
        head, record = DepthHead.from_pretrained(finished.head), finished.record
        picture = picture or (finished.picture if finished.picture.is_file() else None)
    if picture is not None and not picture.is_file():
        raise ConfigError(f"no such picture: {picture}")
    address = head.push_to_hub(
        args.repo,
        private=True if args.private else None,
        create_pr=args.create_pr,
        commit_message=args.commit_message,
        revision=args.revision,
        card=CardDetails(
            license=args.license,
            data_license=args.data_license,
            datasets=tuple(args.dataset),
            record=record,
            picture=picture,
        ),
    )
    return Result(f"{args.repo}: {address}", {"repo": args.repo, "address": address, "record": record is not None})
