"""A `device_map` of transformers for a model that is never split: the one device that it means."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from spaceclip_plugin.errors import ConfigError

_STRATEGIES = ("auto", "balanced", "balanced_low_0", "sequential")


def one_device(device_map: object) -> torch.device | None:
    """The one device that a `device_map` puts all of a model on; None where it says nothing.

    accelerate's strategies ("auto") fill the accelerator first: one is enough for a tower and its head.
    """
    if device_map is None:
        return None
    places = [*set(device_map.values())] if isinstance(device_map, Mapping) else [device_map]
    try:
        if len(places) != 1 or isinstance(places[0], bool) or not isinstance(places[0], int | str | torch.device):
            raise TypeError(f"expected one device, got {places}")
        if places[0] in _STRATEGIES:
            if torch.cuda.is_available():
                return torch.device("cuda", torch.cuda.current_device())
            return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
        device = torch.device("cuda", places[0]) if isinstance(places[0], int) else torch.device(places[0])
        torch.empty(0, device=device)  # a name can be well-formed and its device absent
        if device.type == "meta":
            raise TypeError("the meta device computes nothing")
    except (TypeError, RuntimeError, AssertionError) as error:
        why = str(error).split("\n", maxsplit=1)[0]
        raise ConfigError(
            f"device_map {device_map!r} does not put the model on one device that is here: {why}. A tower and its head "
            "are not split: give one device, such as 'cuda:0', 'cpu' or 'auto', or leave it out and move the model "
            "with .to(device)"
        ) from error
    return device
