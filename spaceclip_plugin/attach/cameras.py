"""Which camera an image call belongs to, as far as that can be told without asking the policy.

A policy that runs its tower once per camera does so in the order of its configuration, cameras it has no image for
last, as images of one value, or not at all. A name is given only where the calls of a host step leave no doubt, or the
user tells which cameras are there; a wrong name would be worse than none.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from torch import nn

from spaceclip_plugin.attach.declared_mappings import declared_mappings, short_name
from spaceclip_plugin.errors import ConfigError

__all__ = ["DeclaredViews", "checked_views", "declared_mappings", "declared_order", "declared_views", "named_calls"]

# LeRobot's policies that run their tower camera by camera; its others put all cameras into one batch.
_CAMERA_BY_CAMERA = frozenset({"PI0Policy", "PI05Policy", "PI0FastPolicy", "SmolVLAPolicy"})
_EMPTY = "empty_camera"
_LEAVING_OUT = frozenset({"SmolVLAPolicy"})  # those of them that leave out the calls of missing cameras


def declared_views(holders: Iterable[nn.Module]) -> tuple[str, ...]:
    """Camera names in the configuration of the LeRobot policy among a tower's holders that runs it once per camera."""
    for module in holders:
        if any(cls.__name__ in _CAMERA_BY_CAMERA for cls in type(module).__mro__):
            features = getattr(getattr(module, "config", None), "image_features", None)
            return tuple(short_name(str(name)) for name in features) if isinstance(features, Mapping) else ()
    return ()


class DeclaredViews(tuple[str, ...]):
    """Camera names as a policy's configuration declares them.

    Attributes:
        leaves_out: whether the tower is called once less for every camera that is missing.
    """

    leaves_out: bool = False


def declared_order(holders: Iterable[nn.Module]) -> DeclaredViews:
    """`declared_views`, and what that policy does where cameras are missing.

    pi0 and its family call their tower on a blank image for each; SmolVLA on as many as its `empty_cameras` says, which
    are as many as the placeholders among its cameras (`prepare_images` of LeRobot 0.4.4 and 0.6.1).
    """
    modules = list(holders)
    views = DeclaredViews(declared_views(modules))
    placeholders = sum(view.startswith(_EMPTY) for view in views)
    for module in modules:
        if any(cls.__name__ in _LEAVING_OUT for cls in type(module).__mro__):
            views.leaves_out = getattr(getattr(module, "config", None), "empty_cameras", None) == placeholders
    return views


def checked_views(views: Sequence[str]) -> tuple[str, ...]:
    """Camera names that a user gave; ConfigError for anything but a list of different, non-empty strings."""
    names = () if isinstance(views, str) else views if isinstance(views, DeclaredViews) else tuple(views)
    if not names or len(set(names)) != len(names) or not all(isinstance(name, str) and name for name in names):
        raise ConfigError(f"views must be a list of different camera names, got {views!r}")
    return names


def named_calls(
    views: Sequence[str],
    steps: Sequence[int],
    blank: Sequence[bool | None],
    *,
    given: Mapping[int, Collection[str]] | None = None,
) -> list[str | None]:
    """The camera of every image call, or None.

    Args:
        views: cameras in the order in which the policy calls its tower.
        steps: the host step of every call, in call order.
        blank: whether every image of a call is of one value; None where that is not known.
        given: the cameras that the policy had images of, by host step, where that was told.
    """
    names: list[str | None] = [None] * len(steps)
    for step in set(steps):
        calls = [i for i, other in enumerate(steps) if other == step]
        cameras = None if given is None else given.get(step)
        for i, name in zip(calls, _names(views, [blank[i] for i in calls], cameras), strict=True):
            names[i] = name
    return names


def _names(views: Sequence[str], blank: Sequence[bool | None], given: Collection[str] | None) -> list[str | None]:
    """The cameras of one step's calls: first those that are there, in order, then images of one value for others."""
    unknown: list[str | None] = [None] * len(blank)
    if None in blank:
        return unknown
    if given is None:
        if len(blank) == len(views) and not any(blank):
            return [*views]
        # No robot has the cameras that placeholders stand for.
        there = [view for view in views if not view.startswith(_EMPTY)]
        if not _are_all_there(views, there, blank):
            return unknown
    else:
        there = [view for view in views if view in given]
    stand_ins = blank[len(there) :]
    if len(blank) < len(there) or not all(stand_ins):
        return unknown
    others = [view for view in views if view not in there]
    # Of several missing cameras, fewer images may stand for them; whom one stands for is told where each has its own.
    return [*there, *(others if len(others) == len(stand_ins) else [None] * len(stand_ins))]


def _are_all_there(views: Sequence[str], there: Sequence[str], blank: Sequence[bool | None]) -> bool:
    """Whether no camera is missing, so that the first calls are theirs in order; one that is dark shows one value, too.

    A camera that is missing moves those behind it up. So none is if as many calls show something as there are cameras,
    if calls are left out for missing ones and none was, or if there is but one camera: a policy runs on one at least.
    """
    shows = [i for i, is_blank in enumerate(blank, 1) if not is_blank]
    counted = isinstance(views, DeclaredViews) and views.leaves_out and len(blank) == len(views)
    return counted or len(there) == 1 or (bool(shows) and shows[-1] >= len(there))
