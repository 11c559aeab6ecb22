"""Which camera an image call belongs to, as far as that can be told without asking the policy.

A policy that runs its tower once per camera does so in the order of its configuration, cameras it has no image for
last, as images of one value. A name is given only where the calls of a host step are exactly the cameras; a wrong
name would be worse than none.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from torch import nn

# LeRobot's policies that run their tower camera by camera; its others put all cameras into one batch.
_CAMERA_BY_CAMERA = frozenset({"PI0Policy", "PI05Policy", "PI0FastPolicy", "SmolVLAPolicy"})
_PREFIXES = ("observation.images.", "observation.")
_EMPTY = "empty_camera"


def declared_views(host: nn.Module) -> tuple[str, ...]:
    """Camera names in the configuration of a LeRobot policy that runs its tower once per camera; else empty."""
    for module in host.modules():
        if any(cls.__name__ in _CAMERA_BY_CAMERA for cls in type(module).__mro__):
            features = getattr(getattr(module, "config", None), "image_features", None)
            return tuple(_short(str(name)) for name in features) if isinstance(features, Mapping) else ()
    return ()


def _short(name: str) -> str:
    for prefix in _PREFIXES:
        name = name.removeprefix(prefix)
    return name


def named_calls(views: Sequence[str], steps: Sequence[int], blank: Sequence[bool]) -> list[str | None]:
    """The camera of every image call, or None.

    Args:
        views: cameras in the order in which the policy calls its tower.
        steps: the host step of every call, in call order.
        blank: whether every image of a call is of one value.
    """
    names: list[str | None] = []
    for step, calls in Counter(steps).items():
        blanks = [blank[i] for i, other in enumerate(steps) if other == step]
        placeholders = [name.startswith(_EMPTY) for name in views]
        # Missing cameras come last, whichever they are: then order tells no names, unless they are placeholders.
        certain = calls == len(views) and (not any(blanks) or blanks == placeholders)
        names += views if certain else [None] * calls
    return names
