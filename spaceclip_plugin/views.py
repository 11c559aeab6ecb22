"""Which camera an image call belongs to, as far as that can be told without asking the policy.

A policy that runs its tower once per camera does so in the order of its configuration, cameras it has no image for
last, as images of one value. A name is given only where the calls of a host step are exactly the cameras; a wrong
name would be worse than none.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from torch import nn

from spaceclip_plugin.declared_mappings import declared_mappings, short_name
from spaceclip_plugin.errors import ConfigError

__all__ = ["checked_views", "declared_mappings", "declared_views", "named_calls"]

# LeRobot's policies that run their tower camera by camera; its others put all cameras into one batch.
_CAMERA_BY_CAMERA = frozenset({"PI0Policy", "PI05Policy", "PI0FastPolicy", "SmolVLAPolicy"})
_EMPTY = "empty_camera"


def declared_views(holders: Iterable[nn.Module]) -> tuple[str, ...]:
    """Camera names in the configuration of the LeRobot policy among a tower's holders that runs it once per camera."""
    for module in holders:
        if any(cls.__name__ in _CAMERA_BY_CAMERA for cls in type(module).__mro__):
            features = getattr(getattr(module, "config", None), "image_features", None)
            return tuple(short_name(str(name)) for name in features) if isinstance(features, Mapping) else ()
    return ()


def checked_views(views: Sequence[str]) -> tuple[str, ...]:
    """Camera names that a user gave; ConfigError for anything but a list of different, non-empty strings."""
    names = () if isinstance(views, str) else tuple(views)
    if not names or len(set(names)) != len(names) or not all(isinstance(name, str) and name for name in names):
        raise ConfigError(f"views must be a list of different camera names, got {views!r}")
    return names


def named_calls(views: Sequence[str], steps: Sequence[int], blank: Sequence[bool | None]) -> list[str | None]:
    """The camera of every image call, or None.

    Args:
        views: cameras in the order in which the policy calls its tower.
        steps: the host step of every call, in call order.
        blank: whether every image of a call is of one value; None where that is not known.
    """
    names: list[str | None] = [None] * len(steps)
    placeholders = [name.startswith(_EMPTY) for name in views]
    for step in set(steps):
        calls = [i for i, other in enumerate(steps) if other == step]
        blanks = [blank[i] for i in calls]
        # Missing cameras come last, whichever they are: then order tells no names, unless they are placeholders.
        if len(calls) == len(views) and (blanks == [False] * len(calls) or blanks == placeholders):
            for i, name in zip(calls, views, strict=True):
                names[i] = name
    return names
