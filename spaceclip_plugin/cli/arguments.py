"""Arguments that several commands share, and what they stand for."""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import nn

from spaceclip_plugin.attach.tower_match import OTHER_TOWER, WARN
from spaceclip_plugin.data.files.pairs import RAY
from spaceclip_plugin.data.sample import DepthSource
from spaceclip_plugin.data.sources.depth_list import ListData
from spaceclip_plugin.data.sources.image_folder import FolderData
from spaceclip_plugin.data.sources.mixture import Mixture
from spaceclip_plugin.data.sources.registry import parse_source
from spaceclip_plugin.data.sources.selective import SelectiveSource
from spaceclip_plugin.data.sources.spec import SourceSpec, checked_units
from spaceclip_plugin.errors import ConfigError, HostError
from spaceclip_plugin.evaluation import PROTOCOLS, Protocol, get_protocol
from spaceclip_plugin.towers.hosts import RANDOM, load_host, say_statistics
from spaceclip_plugin.towers.image_statistics import ImageStatistics
from spaceclip_plugin.training.config.run_config import CODE

SOURCE_HELP = "a list of lines `rgb depth [focal]`, folder:DIR, lerobot:ID-or-DIR or scenes:COUNT[:SEED]"
DEFAULT_PROTOCOL = "nyu-eigen"


def add_head(parser: argparse.ArgumentParser, *, positional: bool = False, required: bool = True) -> None:
    """HEAD or --head: a folder, or a repository of the Hub."""
    about = "folder of a head, or its Hub repository (org/name)"
    if positional:
        parser.add_argument("head", metavar="HEAD", help=about)
    else:
        parser.add_argument("--head", required=required, metavar="HEAD", help=about)


def add_other_tower(parser: argparse.ArgumentParser) -> None:
    """--other-tower: what to do where the head was trained on other weights."""
    parser.add_argument(
        "--other-tower",
        choices=OTHER_TOWER,
        default=WARN,
        help="where the head was trained on another tower than the host's: warn, error, or ignore (default: warn)",
    )


def add_host(parser: argparse.ArgumentParser, *, required: bool = True, positional: bool = False) -> None:
    """--host (or HOST, where it is the command's object) and what says how it is built, read and placed."""
    group = parser.add_argument_group("host")
    known = "timm:NAME, hf:ID-or-folder, open_clip:NAME or python:MODULE:FUNCTION (called without arguments)"
    if positional:
        parser.add_argument("host", metavar="HOST", help=known)
    else:
        group.add_argument("--host", required=required, metavar="HOST", help=known)
    group.add_argument(
        "--host-weights",
        type=_host_weights,
        metavar="FILE",
        help="safetensors file with the host's weights, or `random` for none, a trial (default: the pretrained ones "
        "that its name means; ./random is a file)",
    )
    group.add_argument(
        "--image-size",
        type=_image_size,
        metavar="H,W",
        help="pixels that a timm host shall take, its positions interpolated: keeps an aspect ratio (default: its own)",
    )
    for flag, purpose in (("--image-mean", "mean"), ("--image-std", "standard deviation")):
        group.add_argument(
            flag,
            type=_rgb,
            metavar="R,G,B",
            help=f"{purpose} that its images, in [0, 1], are normalised with (default: what it declares)",
        )
    group.add_argument("--tower", metavar="PATH", help="module path of the tower, where the host has several")
    group.add_argument("--adapter", metavar="NAME", help="adapter to use instead of the one that is found")
    group.add_argument("--device", metavar="NAME", help="cpu, cuda, cuda:1, mps (default: cuda where there is one)")


def host_from(args: argparse.Namespace) -> nn.Module:
    """The host that the arguments name, frozen, in eval mode and on its device."""
    return open_host(
        args.host,
        weights=args.host_weights,
        image_hw=args.image_size,
        statistics=ImageStatistics.from_pair(args.image_mean, args.image_std),
        device_name=args.device,
    )


def open_host(
    name: str,
    *,
    weights: Path | str | None = None,
    image_hw: tuple[int, int] | None = None,
    statistics: ImageStatistics | None = None,
    device_name: str | None = None,
) -> nn.Module:
    """A host by name, or from a function of the user's; frozen, in eval mode and on its device.

    Args:
        name: as `load_host` takes it, or python:MODULE:FUNCTION.
        weights, image_hw: see `load_host`; a function's host has its own.
        statistics: what the user says its images are normalised with; None: what the host declares.
        device_name: see `device_called`; None leaves a function's host where it was put.

    Raises:
        HostError: there is no such host, or weights or a size are given for one that has its own.
    """
    if not name.startswith(CODE):
        mean, std = (None, None) if statistics is None else (statistics.mean, statistics.std)
        host = load_host(name, weights=weights, image_hw=image_hw, image_mean=mean, image_std=std)
        return host.to(device_called(device_name))
    if weights is not None:
        raise HostError("--host-weights is for named hosts; a python: function loads its own weights")
    if image_hw is not None:
        raise HostError("--image-size is for named hosts; a python: function builds its host for the size it wants")
    host = _from_function(name.removeprefix(CODE))
    if statistics is not None:
        say_statistics(host, statistics)
    # Without --device it stays where it was put: a dispatched or quantised model must not be moved.
    return host if device_name is None else host.to(device_called(device_name))


def device(args: argparse.Namespace) -> torch.device:
    """The device that --device names; see `device_called`."""
    return device_called(args.device)


def device_called(name: str | None) -> torch.device:
    """The device of that name; None: CUDA where there is one, and of several processes each has its own.

    Raises:
        ConfigError: it cannot be used here.
    """
    if name is None:
        if not torch.cuda.is_available():
            return torch.device("cpu")
        rank = os.environ.get("LOCAL_RANK")  # set by `accelerate launch` and torchrun
        if rank is None:
            return torch.device("cuda")
        name = f"cuda:{rank}"
    try:
        named = torch.device(name)
        torch.empty(0, device=named)  # a name can be well-formed and its device absent
    except (RuntimeError, AssertionError) as error:
        reason = str(error).split("\n", maxsplit=1)[0]
        raise ConfigError(f"--device {name!r} cannot be used here: {reason}") from error
    return named


def _from_function(target: str) -> nn.Module:
    module_name, _, function_name = target.partition(":")
    if not module_name or not function_name:
        raise HostError(f"expected python:MODULE:FUNCTION, got {CODE}{target}")
    sys.path.insert(0, "")  # as `python -m` would: the user's own modules in the current folder
    try:
        build = getattr(importlib.import_module(module_name), function_name)
    except (ImportError, AttributeError) as error:
        raise HostError(f"cannot get a host from {CODE}{target}: {error}") from error
    finally:
        sys.path.remove("")
    host = build()  # an error in there is the user's own, and its traceback what they need
    if not isinstance(host, nn.Module):
        raise HostError(f"{CODE}{target} returned a {type(host).__name__}, expected a torch.nn.Module")
    return host.eval().requires_grad_(False)


def add_lists(parser: argparse.ArgumentParser, *, protocol: str | None = DEFAULT_PROTOCOL) -> None:
    """What says how data is read and scored; `protocol` is what --protocol is where it is not given."""
    group = parser.add_argument_group("data")
    group.add_argument(
        "--protocol",
        choices=sorted(PROTOCOLS),
        default=protocol,
        help=f"depth encoding, crop, mask and range (default: {DEFAULT_PROTOCOL}, 16-bit PNG in millimetres)",
    )
    group.add_argument(
        "--depth-range",
        type=_depth_range,
        metavar="MIN,MAX",
        help="metres between which depth counts, instead of the protocol's: 0.1,2",
    )
    group.add_argument(
        "--units-per-metre",
        type=float,
        metavar="N",
        help="of integer depth (16-bit PNG, PGM) where a source has no unit of its own (default: the protocol's)",
    )
    group.add_argument(
        "--ray-distance",
        action="store_true",
        default=None,
        help="depth of lists and folders is measured along the ray, as Hypersim's, not along the optical axis",
    )
    group.add_argument("--root", type=Path, metavar="DIR", help="folder a list's paths start from (default: its own)")
    group.add_argument(
        "--skip-bad", action="store_true", default=None, help="leave out samples that cannot be used, and list them"
    )


def protocol_from(args: argparse.Namespace) -> Protocol:
    """The protocol that --protocol and --depth-range mean."""
    protocol = get_protocol(args.protocol)
    return protocol if args.depth_range is None else protocol.with_range(*args.depth_range)


def open_sources(texts: Sequence[str], args: argparse.Namespace, protocol: Protocol) -> DepthSource:
    """The samples of everything that --data names, one after the other; see `open_specs`."""
    specs = rooted([parse_source(text) for text in texts], args.root)
    specs = measured(specs, ray_distance=bool(args.ray_distance), units_per_metre=args.units_per_metre)
    return open_specs(specs, protocol, units_per_metre=args.units_per_metre, skip_bad=bool(args.skip_bad))


def measured(
    specs: Sequence[SourceSpec], *, ray_distance: bool = False, units_per_metre: float | None = None
) -> list[SourceSpec]:  # fmt: skip
    """The same data with what the flags say of its depth, once it is known that they say it of something.

    Args:
        specs: all data of a command.
        ray_distance: --ray-distance: of every list and folder.
        units_per_metre: --units-per-metre, which `open_specs` takes where a source has no unit of its own.

    Raises:
        ConfigError: a flag that no data given can follow, or no such unit.
    """
    unitless = any(getattr(spec, "units_per_metre", 1.0) is None for spec in specs)
    if checked_units(units_per_metre) is not None and not unitless:
        raise ConfigError(
            f"--units-per-metre {units_per_metre:g} is for lists and folders without a unit of their own, and no data "
            "given is one; leave it out"
        )
    files = [spec for spec in specs if isinstance(spec, (ListData, FolderData))]
    if ray_distance and not files:
        raise ConfigError(
            "--ray-distance is for the depth of lists and folders, and no data given is one; leave it out"
        )
    return [
        dataclasses.replace(spec, distance=RAY) if ray_distance and isinstance(spec, (ListData, FolderData)) else spec
        for spec in specs
    ]


def rooted(specs: Sequence[SourceSpec], root: Path | None) -> list[SourceSpec]:
    """The same data, the paths in its lists starting from --root where that is given.

    Raises:
        ConfigError: --root is given, and there is no list.
    """
    if root is None:
        return list(specs)
    if not any(isinstance(spec, ListData) for spec in specs):
        raise ConfigError(f"--root {str(root)!r} is for the paths in a list, and no data given is one; leave it out")
    return [dataclasses.replace(spec, root=str(root)) if isinstance(spec, ListData) else spec for spec in specs]


def open_specs(
    specs: Sequence[SourceSpec],
    protocol: Protocol,
    *,
    weights: Sequence[float] | None = None,
    units_per_metre: float | None = None,
    skip_bad: bool = False,
) -> DepthSource:
    """The samples of one or several sources; several are a mixture.

    Args:
        specs: at least one.
        protocol: says the unit of integer depth, and with `skip_bad` what can be used.
        weights: of each source, see `Mixture`.
        units_per_metre: of integer depth where a source has no unit of its own; None is the protocol's.
        skip_bad: read every sample once, and leave out what cannot be used.

    Raises:
        DataError: data that is absent, empty or, without `skip_bad`, bad.
    """
    sources: list[DepthSource] = []
    units = protocol.depth_scale if units_per_metre is None else units_per_metre
    for spec in specs:
        source = spec.open(units_per_metre=units, skip_bad=skip_bad)
        if skip_bad and isinstance(source, SelectiveSource):
            source = source.validated(protocol.check)
        sources.append(source)
    return sources[0] if len(sources) == 1 else Mixture(sources, weights=weights)


def skipped(*sources: DepthSource) -> list[dict[str, str | int]]:
    """Everything that --skip-bad left out, for `--json`: {"list", "line", "reason"} or {"source", "name", "reason"}."""
    return [
        {"list": place, "line": label, "reason": reason}
        if isinstance(label, int)
        else {"source": place, "name": label, "reason": reason}
        for part in _parts(sources)
        for place in [str(getattr(part, "place", type(part).__name__))]
        for label, reason in getattr(part, "skipped", ())
    ]


def _parts(sources: Sequence[DepthSource]) -> Iterator[DepthSource]:
    for source in sources:
        if isinstance(source, Mixture):
            yield from _parts(source.parts)
        else:
            yield source


def _host_weights(text: str) -> Path | str:
    return RANDOM if text == RANDOM else Path(text)


def _rgb(text: str) -> tuple[float, float, float]:
    try:
        red, green, blue = (float(word) for word in text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"expected R,G,B for images in [0, 1], as 0.485,0.456,0.406, got {text!r}"
        ) from error
    return red, green, blue


def _image_size(text: str) -> tuple[int, int]:
    try:
        height, width = (int(word) for word in text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"expected H,W in pixels, as 192,256, got {text!r}") from error
    if not (0 < height <= 16384 and 0 < width <= 16384):
        raise argparse.ArgumentTypeError(f"expected sides from 1 to 16384 pixels, got {text!r}")
    return height, width


def _depth_range(text: str) -> tuple[float, float]:
    try:
        low_m, high_m = (float(word) for word in text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"expected MIN,MAX in metres, as 0.1,2, got {text!r}") from error
    return low_m, high_m
