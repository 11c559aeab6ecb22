"""The data that a command is given: what its flags say of it, and its samples."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from spaceclip_plugin.cli.flags import add_flags
from spaceclip_plugin.data import DepthSource, Mixture, SelectiveSource, SourceSpec
from spaceclip_plugin.data.files.pairs import RAY
from spaceclip_plugin.data.sources.depth_list import ListData
from spaceclip_plugin.data.sources.image_folder import FolderData
from spaceclip_plugin.data.sources.mixture import parts_of
from spaceclip_plugin.data.sources.spec import is_recording
from spaceclip_plugin.errors import ConfigError
from spaceclip_plugin.training.config.shared import ReadingConfig

SOURCE_HELP = (
    "a list of lines `rgb depth [focal]`, folder:DIR, lerobot:ID-or-DIR, taught:DIR (of `spaceclip teach`), "
    "metaworld:[SPLIT:][LOOK:]COUNT[:SEED] or scenes:COUNT[:SEED]"
)
PHOTOS_HELP = (
    "photos that need no depth: folder:DIR (photos in DIR/rgb or DIR), lerobot:ID-or-DIR, or a list of lines `rgb "
    "[depth or None] [focal]`; depth that they have gives the scale"
)
_OF_RECORDINGS = "is for LeRobot data sets, and what was taught of them"


def _is_list(spec: SourceSpec) -> bool:
    return isinstance(spec, ListData)


def _is_files(spec: SourceSpec) -> bool:
    return isinstance(spec, (ListData, FolderData))


def _has_cameras(spec: SourceSpec) -> bool:
    """Of taught photos the camera is settled."""
    return is_recording(spec) and any(field.name == "camera" for field in dataclasses.fields(spec))


def add_reading(parser: argparse.ArgumentParser) -> None:
    """What says how data is read and scored."""
    group = parser.add_argument_group("data")
    add_flags(group, ReadingConfig)
    group.add_argument(
        "--ray-distance",
        action="store_true",
        default=None,
        help="depth of lists and folders is measured along the ray, as Hypersim's, not along the optical axis",
    )
    group.add_argument("--root", type=Path, metavar="DIR", help="folder a list's paths start from (default: its own)")
    group.add_argument("--camera", metavar="NAME", help="whose frames, of LeRobot data sets with several cameras")
    group.add_argument(
        "--stride",
        type=int,
        metavar="N",
        help="every how many frames of LeRobot data sets, or photos taught of them, one is taken (default: all, in "
        "training about two a second)",
    )
    group.add_argument(
        "--episodes",
        metavar="N-M,…",
        help="which of LeRobot data sets, or taught of them: 0-39,45 (default: all of them)",
    )


def as_flagged(specs: Sequence[SourceSpec], args: argparse.Namespace) -> list[SourceSpec]:
    """All data of a command with what --root, --camera and their like say of it; ConfigError for one of no use."""
    unit, nothing = args.units_per_metre, "and no data given is one; leave it out"
    if unit is not None and not any(getattr(spec, "units_per_metre", 1.0) is None for spec in specs):
        raise ConfigError(f"--units-per-metre {unit:g} is for lists and folders without a unit of their own, {nothing}")
    changed = list(specs)
    flags: tuple[tuple[object, str, Callable[[SourceSpec], bool], dict[str, Any]], ...] = (
        (args.ray_distance, "--ray-distance is for the depth of lists and folders", _is_files, {"distance": RAY}),
        (args.root, f"--root {str(args.root)!r} is for the paths in a list", _is_list, {"root": str(args.root)}),
        (args.camera, f"--camera {args.camera} is for LeRobot data sets", _has_cameras, {"camera": args.camera}),
        (args.stride, f"--stride {args.stride} {_OF_RECORDINGS}", is_recording, {"stride": args.stride}),
        (args.episodes, f"--episodes {args.episodes} {_OF_RECORDINGS}", is_recording, {"episodes": args.episodes}),
    )
    for given, purpose, takes, change in flags:
        if given is None:
            continue
        if not any(map(takes, specs)):
            raise ConfigError(f"{purpose}, {nothing}")
        changed = [dataclasses.replace(one, **change) if takes(one) else one for one in changed]
    return changed


def open_specs(
    specs: Sequence[SourceSpec], config: ReadingConfig, *, weights: Sequence[float] | None = None
) -> DepthSource:
    """The samples of one or several sources; several are a mixture, with these weights.
    With `skip_bad`, every sample is read once, and what the protocol cannot use is left out."""
    protocol = config.evaluation
    units = protocol.depth_scale if config.units_per_metre is None else config.units_per_metre
    sources: list[DepthSource] = []
    for spec in specs:
        source = spec.open(units_per_metre=units, skip_bad=config.skip_bad)
        if config.skip_bad and isinstance(source, SelectiveSource):
            source = source.validated(protocol.check)
        sources.append(source)
    return sources[0] if len(sources) == 1 else Mixture(sources, weights=weights)


def skipped(*sources: DepthSource) -> list[dict[str, str | int]]:
    """Everything that --skip-bad left out, for `--json`: {"list", "line", "reason"} or {"source", "name", "reason"}."""
    return [
        {"list": place, "line": label, "reason": reason}
        if isinstance(label, int)
        else {"source": place, "name": label, "reason": reason}
        for part in parts_of(sources)
        for place in [str(getattr(part, "place", type(part).__name__))]
        for label, reason in getattr(part, "skipped", ())
    ]
