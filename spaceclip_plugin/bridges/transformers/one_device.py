"""A `device_map` of transformers for a model that is never split: the one device that it means."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from spaceclip_plugin.errors import ConfigError

_ANY = ("auto", "balanced", "balanced_low_0", "sequential")


def one_device(device_map: object) -> torch.device | None:
    """The device that a `device_map` puts all of a model on; None where it says nothing.

    Args:
        device_map: a device, its name or CUDA number, a mapping whose values all are the same one, or one of
            accelerate's strategies ("auto"), which fill the accelerator first: one is enough for a tower and its head.

    Raises:
        ConfigError: several devices, none that this PyTorch has, or the disk.
    """
    if device_map is None:
        return None
    places = set(device_map.values()) if isinstance(device_map, Mapping) else {device_map}
    if len(places) != 1:
        raise _refused(device_map, f"{len(places)} devices")
    (place,) = places
    if isinstance(place, str) and place in _ANY:
        return _accelerator()
    if isinstance(place, bool) or not isinstance(place, int | str | torch.device):
        raise _refused(device_map, f"a {type(place).__name__}")
    try:
        device = torch.device("cuda", place) if isinstance(place, int) else torch.device(place)
        torch.empty(0, device=device)  # a name can be well-formed and its device absent
    except (RuntimeError, AssertionError) as error:
        raise _refused(device_map, str(error).split("\n", maxsplit=1)[0]) from error
    if device.type == "meta":
        raise _refused(device_map, "no device that computes")
    return device


def _accelerator() -> torch.device:
    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def _refused(device_map: object, why: str) -> ConfigError:
    return ConfigError(
        f"device_map {device_map!r} does not put the model on one device that is here: {why}. A tower and its head are "
        "not split: give one device, as 'cuda:0', 'cpu' or 'auto', or leave it out and move the model with .to(device)"
    )
