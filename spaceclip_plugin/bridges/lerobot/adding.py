"""Both steps put where they belong in the pipelines of a policy."""

from __future__ import annotations

import dataclasses
from typing import Any

from torch import nn

from spaceclip_plugin.bridges.lerobot.head import HeadStep
from spaceclip_plugin.bridges.lerobot.steps import DepthGuardStep, DepthProcessorStep
from spaceclip_plugin.errors import ConfigError, HostError
from spaceclip_plugin.guard import DepthGuard

_BEFORE = "normalizer_processor"


def add_depth(
    preprocessor: Any,
    postprocessor: Any,
    depth: DepthProcessorStep,
    guard: DepthGuardStep | None = None,
    *,
    policy: nn.Module | None = None,
) -> None:
    """Put the depth step before a preprocessor's normalizer and a guard step at a postprocessor's end.

    Both pipelines are changed in place; neither is changed where an error is raised.

    Args:
        preprocessor, postprocessor: of one policy, as `make_pre_post_processors` gives them.
        depth: the step that adds depth; where the guard names no cameras, it must have those that are named here.
        guard: the step that guards actions, with the same head; None: they are not guarded.
        policy: to connect both to, which checks that the guard's `max_age` makes sense for it; None: they look for it
            at their first call, warn which they took, and check then.

    Raises:
        ConfigError: the pipelines have such a step already, or see `DepthGuardStep` on a policy that acts on one look
            for longer than the guard's default age.
        HostError: the preprocessor has no normalizer, or see `connect`.

    Example:
        >>> depth = DepthProcessorStep(head, fresh=True)
        >>> guard = DepthGuardStep(head, actions="velocity")
        >>> add_depth(preprocessor, postprocessor, depth, guard, policy=policy)
        >>> [type(step).__name__ for step in (*preprocessor.steps, *postprocessor.steps) if step in (depth, guard)]
        ['DepthProcessorStep', 'DepthGuardStep']
    """
    before, behind = [*preprocessor.steps], [*postprocessor.steps]
    if any(isinstance(step, HeadStep) for step in before + behind):
        raise ConfigError("these pipelines have a depth or guard step already; make them anew")
    places = [i for i, step in enumerate(before) if getattr(type(step), "_registry_name", None) == _BEFORE]
    if not places:
        raise HostError(
            f"the preprocessor has no {_BEFORE!r} to put depth before: insert DepthProcessorStep by hand, behind every "
            "step that takes all of observation.images for cameras, or use DepthGuardStep alone"
        )
    before.insert(places[0], depth)
    if guard is not None:
        limits = guard.guard.limits
        guard.guard = DepthGuard(dataclasses.replace(limits, cameras=limits.cameras or depth.cameras or ()))
        behind.append(guard)
    if policy is not None:
        for step in (depth,) if guard is None else (depth, guard):
            step.connect(policy)
    preprocessor.steps, postprocessor.steps = before, behind
