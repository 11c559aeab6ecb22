"""Arguments that several commands share, and what they stand for."""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path

import torch
from torch import nn

from spaceclip_plugin.data.depth_list import DepthList
from spaceclip_plugin.errors import ConfigError, HostError
from spaceclip_plugin.evaluation.protocols import PROTOCOLS, Protocol
from spaceclip_plugin.hosts import load_host

_PYTHON = "python:"


def add_host(parser: argparse.ArgumentParser, *, required: bool = True, positional: bool = False) -> None:
    """--host (or HOST, where it is the command's object), --host-weights, --tower, --adapter, --device."""
    group = parser.add_argument_group("host")
    known = "timm:NAME, hf:ID-or-folder, open_clip:NAME or python:MODULE:FUNCTION (called without arguments)"
    if positional:
        parser.add_argument("host", metavar="HOST", help=known)
    else:
        group.add_argument("--host", required=required, metavar="HOST", help=known)
    group.add_argument("--host-weights", type=Path, metavar="FILE", help="safetensors file with the host's weights")
    group.add_argument("--tower", metavar="PATH", help="module path of the tower, where the host has several")
    group.add_argument("--adapter", metavar="NAME", help="adapter to use instead of the one that is found")
    group.add_argument("--device", metavar="NAME", help="cpu, cuda, cuda:1, mps (default: cuda where there is one)")


def host_from(args: argparse.Namespace) -> nn.Module:
    """The host that the arguments name, frozen, in eval mode and on its device."""
    if not args.host.startswith(_PYTHON):
        return load_host(args.host, weights=args.host_weights).to(device(args))
    if args.host_weights is not None:
        raise HostError("--host-weights is for named hosts; a python: function loads its own weights")
    host = _from_function(args.host.removeprefix(_PYTHON))
    # Without --device it stays where it was put: a dispatched or quantised model must not be moved.
    return host if args.device is None else host.to(device(args))


def device(args: argparse.Namespace) -> torch.device:
    """The device that --device names, else CUDA where there is one."""
    if args.device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        named = torch.device(args.device)
        torch.empty(0, device=named)  # a name can be well-formed and its device absent
    except (RuntimeError, AssertionError) as error:
        reason = str(error).split("\n", maxsplit=1)[0]
        raise ConfigError(f"--device {args.device!r} cannot be used here: {reason}") from error
    return named


def _from_function(target: str) -> nn.Module:
    module_name, _, function_name = target.partition(":")
    if not module_name or not function_name:
        raise HostError(f"expected python:MODULE:FUNCTION, got {_PYTHON}{target}")
    sys.path.insert(0, "")  # as `python -m` would: the user's own modules in the current folder
    try:
        build = getattr(importlib.import_module(module_name), function_name)
    except (ImportError, AttributeError) as error:
        raise HostError(f"cannot get a host from {_PYTHON}{target}: {error}") from error
    finally:
        sys.path.remove("")
    host = build()  # an error in there is the user's own, and its traceback what they need
    if not isinstance(host, nn.Module):
        raise HostError(f"{_PYTHON}{target} returned a {type(host).__name__}, expected a torch.nn.Module")
    return host.eval().requires_grad_(False)


def add_lists(parser: argparse.ArgumentParser) -> None:
    """--protocol, --root, --skip-bad."""
    group = parser.add_argument_group("data")
    group.add_argument(
        "--protocol",
        choices=sorted(PROTOCOLS),
        default="nyu-eigen",
        help="depth encoding, crop, mask and range (default: nyu-eigen, 16-bit PNG in millimetres)",
    )
    group.add_argument("--root", type=Path, metavar="DIR", help="folder the list's paths start from (default: its own)")
    group.add_argument("--skip-bad", action="store_true", help="leave out unusable lines, and list them")


def depth_list(path: Path, args: argparse.Namespace, protocol: Protocol) -> DepthList:
    """The samples of a list file; with --skip-bad, every sample is read once and what cannot be used is left out."""
    samples = DepthList(path, root=args.root, units_per_metre=protocol.depth_scale, skip_bad=args.skip_bad)
    return samples.validated(protocol.check) if args.skip_bad else samples


def skipped(*lists: DepthList) -> list[dict[str, str | int]]:
    """Every line that --skip-bad left out, for `--json`."""
    return [
        {"list": str(samples.path), "line": line, "reason": reason}
        for samples in lists
        for line, reason in samples.skipped
    ]
