"""`spaceclip heads`: the heads that come with the package."""

from __future__ import annotations

import argparse
from typing import Any

from spaceclip_plugin.cli.outputs import Result
from spaceclip_plugin.head import DepthHead
from spaceclip_plugin.head.embedded import catalogue
from spaceclip_plugin.head.model_card import CARD_NAME


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """None: there are few heads."""


def run(args: argparse.Namespace) -> Result:
    """Load each as any program would, then tell."""
    heads = [_described(name) for name in catalogue.names()]
    lines = [_line(head) for head in heads] or ["no head comes with this version of the package"]
    return Result("\n".join(lines), {"heads": heads})


def _described(name: str) -> dict[str, Any]:
    head = catalogue.PREFIX + name
    config = DepthHead.from_pretrained(head).config
    return {
        "head": head,
        "tower": config.base_model,
        "trained_on": config.trained_on,
        "depth_range_m": config.depth_range_m,
        "record": catalogue.read_record(name),
        "card": str(catalogue.folder_of(head) / CARD_NAME),
    }


def _line(head: dict[str, Any]) -> str:
    record, (near, far) = head["record"], head["depth_range_m"]
    split = "test" if record["test"] else "validation"
    return (
        f"{head['head']}  for {head['tower']}, {near:g} to {far:g} m, AbsRel {record[split]['abs_rel']:.3f} on "
        f"{record[f'{split}_images']} {split} images, trained on {head['trained_on']}; its card: {head['card']}"
    )
