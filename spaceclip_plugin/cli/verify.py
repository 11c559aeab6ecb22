"""`spaceclip verify`: what a head is, what it fits, and whether its files are whole."""

from __future__ import annotations

import argparse
from typing import Any

from spaceclip_plugin.cli.flags import add_head
from spaceclip_plugin.cli.outputs import Result
from spaceclip_plugin.head import DepthHead, folder, weights
from spaceclip_plugin.hub import HubOptions


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The head, and which version of it."""
    add_head(parser, positional=True)
    parser.add_argument("--revision", metavar="REV", help="branch, tag or commit of a Hub repository")


def run(args: argparse.Namespace) -> Result:
    """Load it as any program would, then tell."""
    files = folder.find_files(args.head, HubOptions(revision=args.revision))
    config_file = files.fetch(folder.CONFIG_NAME)
    # That very commit: a branch may move on meanwhile.
    head = DepthHead.from_pretrained(args.head, revision=files.commit)
    weights_file = files.fetch(folder.WEIGHTS_NAME, max_bytes=weights.MAX_BYTES)
    data: dict[str, Any] = {
        "head": args.head,
        "source": files.source,
        "sha256": weights.read_weights(weights_file, head.state_dict()).sha256,
        "sha256_holds": True,  # anything else is an error
        "plugin_version": folder.read_config(config_file)[1],
        "parameters": sum(parameter.numel() for parameter in head.parameters()),
        "trained": head.trained,
        "tower_fingerprint": head.config.tower_fingerprint is not None,
        "bytes": {path.name: path.stat().st_size for path in (config_file, weights_file)},
        "config": head.config.to_dict(),
    }
    return Result("\n".join(_lines(head, data)), data)


def _lines(head: DepthHead, data: dict[str, Any]) -> list[str]:
    config = head.config
    near, far = config.depth_range_m
    fractions = config.tap_fractions
    revision = f" at {config.base_model_revision}" if config.base_model_revision else ""
    blocks = "any number of" if config.blocks is None else config.blocks
    context = f", with a {config.context} context" if config.options.uses_context else ""
    pairs = {
        "head": f"{config.architecture}, {data['parameters'] / 1e6:.2f} M parameters",
        "fits": f"towers of {blocks} blocks and width {config.width}{context}",
        "made for": f"{config.base_model or 'a tower that it does not name'}{revision}",
        "reads": "hidden states " + ", ".join(map(str, head.taps))
        + ("" if fractions is None else f" ({', '.join(f'{part:.2f}' for part in fractions)} of the depth)"),
        "knows it": "by a fingerprint of its weights" if config.tower_fingerprint else "not: it has no fingerprint",
        "depths": f"{near:g} to {far:g} m",
        "camera": config.camera_in_words,
        "images": "not told" if config.preparation is None else f"prepared by {config.preparation}",
        "familiar": "not told: it was not learnt" if config.familiarity is None
        else f"told by hidden state {config.familiarity.tap}",
        "trained on": config.trained_on or "nothing: random weights, the depth means nothing",
        "written by": f"spaceclip_plugin {data['plugin_version']}, format {data['config']['format_version']}",
        "files": ", ".join(f"{name} {size / 1e3:.1f} kB" for name, size in data["bytes"].items()),
        "sha256": f"{data['sha256']} holds",
    }  # fmt: skip
    return [f"{data['source']}: whole", *(f"  {name:<10} {value}" for name, value in pairs.items())]
