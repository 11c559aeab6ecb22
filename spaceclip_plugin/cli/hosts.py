"""The host that a command is given: by name, or from a function of the user's."""

from __future__ import annotations

import argparse
import importlib
import os
import sys

import torch
from torch import nn

from spaceclip_plugin.attach import DepthAttachment, attach_depth_head
from spaceclip_plugin.cli.flags import add_flags, add_head, add_other_tower, given
from spaceclip_plugin.errors import ConfigError, HostError
from spaceclip_plugin.towers.hosts import load_host, say_statistics
from spaceclip_plugin.towers.registry import find_tower
from spaceclip_plugin.training.config.run_config import CODE
from spaceclip_plugin.training.config.shared import HostConfig


def add_host(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    """--host and what says how it is built, read and placed."""
    add_flags(parser.add_argument_group("host"), HostConfig, required=("host",) if required else ())


def add_attachment(parser: argparse.ArgumentParser) -> None:
    """A host, the head on it, and what to do where that was trained on another tower."""
    add_host(parser)
    add_head(parser)
    add_other_tower(parser)


def attached(args: argparse.Namespace) -> DepthAttachment:
    """The head that the flags name, on its host."""
    host = host_from(args)
    tower = find_tower(host, tower=args.tower, adapter=args.adapter)
    return attach_depth_head(host, args.head, tower=tower, other_tower=args.other_tower)


def host_from(args: argparse.Namespace) -> nn.Module:
    """The host that the flags name."""
    return open_host(HostConfig(**given(args, HostConfig)))


def open_host(config: HostConfig) -> nn.Module:
    """A host, frozen, in eval mode and on its device.
    A function's stays where it was put unless a device is named: a dispatched or quantised model must not be moved."""
    host = _opened(config)
    if config.geometry is not None:
        config.geometry.declare(host)
    return host


def _opened(config: HostConfig) -> nn.Module:
    name, mean, std = str(config.host), config.image_mean, config.image_std
    if not name.startswith(CODE):
        host = load_host(name, weights=config.host_weights, image_hw=config.image_hw, image_mean=mean, image_std=std)
        return host.to(device_called(config.device))
    if config.host_weights is not None:
        raise HostError("--host-weights is for named hosts; a python: function loads its own weights")
    if config.image_hw is not None:
        raise HostError("--image-size is for named hosts; a python: function builds its host for the size it wants")
    host = _from_function(name.removeprefix(CODE))
    if config.statistics is not None:
        say_statistics(host, config.statistics)
    return host if config.device is None else host.to(device_called(config.device))


def device_called(name: str | None) -> torch.device:
    """The device of that name; None: CUDA where there is one, and of several processes each has its own."""
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
