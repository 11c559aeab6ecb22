"""`spaceclip inspect`: the towers of a host, and whether a head fits them."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import Any

from torch import nn

from spaceclip_plugin.attach.declared import declared_cameras
from spaceclip_plugin.attach.preparation_match import match_images
from spaceclip_plugin.attach.tower_match import match_tower
from spaceclip_plugin.cli.flags import add_flags, add_head
from spaceclip_plugin.cli.hosts import host_from
from spaceclip_plugin.cli.outputs import Result
from spaceclip_plugin.depth.camera import focal_in_words
from spaceclip_plugin.head import DepthHead, DepthHeadConfig
from spaceclip_plugin.towers import Tower, find_towers
from spaceclip_plugin.towers.adapter import lineage
from spaceclip_plugin.towers.registry import find_tower, no_tower
from spaceclip_plugin.training.config.shared import HostConfig


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The host, and a head to try on it."""
    parser.add_argument("host", metavar="HOST", help=HostConfig.settings()["host"].help)
    add_flags(parser.add_argument_group("host"), HostConfig, leave_out=("host",))
    add_head(parser, required=False)


def run(args: argparse.Namespace) -> Result:
    """Find the towers; nothing is run."""
    head = None if args.head is None else DepthHead.from_pretrained(args.head).config
    host = host_from(args)
    towers = find_towers(host, adapter=args.adapter)
    if args.tower is not None:
        towers = [find_tower(host, tower=args.tower, adapter=args.adapter)]
    if not towers:
        raise no_tower(host, adapter=args.adapter)
    found = [_described(tower, host, head) for tower in towers]
    text = f"{type(host).__name__}: {len(found)} vision tower{'s' * (len(found) > 1)}\n"
    return Result(text + "\n".join(_lines(tower) for tower in found), {"host": type(host).__name__, "towers": found})


def _described(tower: Tower, host: nn.Module, head: DepthHeadConfig | None) -> dict[str, Any]:
    spec = tower.spec
    config = DepthHeadConfig.for_tower(spec) if head is None else head
    described = {
        **asdict(spec),
        "class": type(tower.module).__name__,
        "grid_hw": spec.grid_hw,
        "taps": list(config.options.taps),
        "architecture": config.architecture,
    }
    if head is not None:
        mismatches = head.mismatches(spec)
        described["head"] = {"fits": not mismatches, "mismatches": mismatches, "trained_on": head.trained_on}
        described["head"]["camera"] = {"focal_length": head.focal_length, "assumed": head.focal_length_assumed}
        described["head"]["familiarity"] = head.familiarity is not None
        images = match_images(head, host, spec, declared=declared_cameras(lineage(host, spec.path)))
        described["head"]["images"] = {**asdict(images), "in_words": str(images)}
        if not mismatches:
            described["head"]["tower"] = _matched(tower, head)
    return described


def _matched(tower: Tower, head: DepthHeadConfig) -> dict[str, Any]:
    match = match_tower(tower, head)
    return {
        "verdict": match.verdict,
        "distance": match.distance,
        "parts": {part.part: part.distance for part in match.distances},
        "adapted_blocks": list(match.adapted),
        "in_words": str(match),
    }


def _lines(tower: dict[str, Any]) -> str:
    widths = tower["widths"]
    rows, columns = tower["grid_hw"]
    height, width = tower["image_hw"]
    pairs = {
        "tower": f"{tower['path'] or 'the host itself'} ({tower['class']})",
        "adapter": tower["adapter"],
        "blocks": tower["blocks"],
        "width": "/".join(map(str, dict.fromkeys(widths))) if widths else tower["width"],
        "grid": f"{rows}x{columns} patches of {tower['patch_size']} pixels, image {height}x{width}",
        "context": tower["context"],
        "mean, std": f"{_numbers(tower['image_mean'])}, {_numbers(tower['image_std'])}",
        "taps": f"{tower['taps']} ({tower['architecture']})",
    }
    if "head" in tower:
        head = tower["head"]
        pairs["head"] = "fits" if head["fits"] else "does not fit: " + "; ".join(head["mismatches"])
        if "tower" in head:
            pairs["weights"] = head["tower"]["in_words"]
        pairs["trained on"] = head["trained_on"] or "nothing: random weights"
        focal_length, assumed = head["camera"]["focal_length"], head["camera"]["assumed"]
        told = "not known" if focal_length is None else f"focal length {focal_in_words(focal_length)}"
        pairs["camera"] = f"{told}, assumed: no training data told it" if assumed else told
        pairs["images"] = head["images"]["in_words"]
        pairs["familiar"] = "tells unfamiliar images" if head["familiarity"] else "does not tell unfamiliar images"
    return "\n".join(f"  {name:<10} {value}" for name, value in pairs.items()) + "\n"


def _numbers(values: tuple[float, ...]) -> str:
    return "(" + " ".join(f"{value:.4g}" for value in values) + ")"
