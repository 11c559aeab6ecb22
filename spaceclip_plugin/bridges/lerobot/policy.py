"""What the processor steps must know of a LeRobot policy: which one it is, its cameras, and how many actions it queues.

A policy is told (`connect(policy)`, `add_depth(…, policy=policy)`, or LeRobot's own way of handing a step what no file
holds: `preprocessor_overrides={"spaceclip_depth": {"policy": policy}}`). LeRobot's command lines tell its steps none,
and LeRobot keeps no list of its policies: the one that is alive is then guessed, and a warning says which.
"""

from __future__ import annotations

import gc
import logging
import sys
from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from spaceclip_plugin import _checks
from spaceclip_plugin.attach.declared import camera_name
from spaceclip_plugin.bridges.lerobot.declared_cameras import PLACEHOLDER
from spaceclip_plugin.errors import ConfigError, HostError, SpaceClipError
from spaceclip_plugin.guard import MAX_AGE, DepthGuard
from spaceclip_plugin.head.depth_head import DepthHead
from spaceclip_plugin.towers import registry

_logger = logging.getLogger(__name__)


def guessed_policy(head: DepthHead) -> nn.Module:
    """The one LeRobot policy alive in this process whose tower the head fits, found among all objects there are.

    Raises:
        HostError: there is none, or there are several.
    """
    base = _policy_class()
    gc.collect()  # one that was dropped may wait to be collected
    alive: list[nn.Module] = [] if base is None else [each for each in gc.get_objects() if issubclass(type(each), base)]
    misfits = {id(policy): _misfit(policy, head) for policy in alive}
    fitting = [policy for policy in alive if not misfits[id(policy)]]
    if len(fitting) == 1:
        return fitting[0]
    listed = ", ".join(sorted(type(policy).__name__ for policy in fitting or alive)) or "none"
    if not fitting:
        problem = f"no LeRobot policy alive in this process has a tower that this head fits (alive: {listed})"
        problem += "".join(f"; {reason}" for reason in dict.fromkeys(misfits.values()))
    else:
        problem = f"{len(fitting)} LeRobot policies alive in this process have a tower that this head fits: {listed}"
    raise HostError(f"{problem}; call connect(policy) of both steps with the one that acts")


def policy_inside(module: nn.Module) -> nn.Module:
    """The LeRobot policy that a wrapper holds (PEFT, DDP, torch.compile), if it holds one; else the module itself."""
    base = _policy_class()
    held = (
        []
        if base is None or isinstance(module, base)
        else [part for part in module.modules() if isinstance(part, base)]
    )
    return held[0] if len(held) == 1 else module


def camera_names(policy: nn.Module) -> dict[str, str]:
    """Names of a policy's cameras by the key of their images in a batch, without placeholders."""
    features = getattr(getattr(policy, "config", None), "image_features", None)
    keys = [str(key) for key in features] if isinstance(features, Mapping) else []
    return {key: name for key in keys if not (name := camera_name(key)).startswith(PLACEHOLDER)}


@dataclass(frozen=True)
class ActionChunks:
    """How many actions a policy makes out of one look at its images.

    Attributes:
        policy: class name of the policy.
        queued: actions it hands out one by one before it looks again (`n_action_steps`).
        chunk: actions in a whole chunk (`chunk_size`), which real-time chunking hands over at once.
        overlapping: whether real-time chunking is on: a chunk begins while the one before it is still executed.
    """

    policy: str
    queued: int
    chunk: int
    overlapping: bool

    @classmethod
    def of(cls, policy: nn.Module) -> ActionChunks:
        """As the policy's configuration says by now; one action where it says nothing."""
        config = getattr(policy, "config", None)
        queued = _count(config, "n_action_steps", 1)
        real_time = getattr(config, "rtc_config", None)
        overlapping = bool(getattr(real_time, "enabled", False))
        return cls(type(policy).__name__, queued, _count(config, "chunk_size", queued), overlapping)

    def check(self, guard: DepthGuard, *, fresh: bool) -> None:
        """Refuse a guard of the default age whose depth would be too old for most of the actions; warn of a chosen one.

        Args:
            guard: the settings.
            fresh: whether depth is refreshed at every host step.

        Raises:
            ConfigError: the policy acts on one look for longer than that, and nobody said a `max_age`.
        """
        name, count = ("chunk_size", self.chunk) if self.overlapping else ("n_action_steps", self.queued)
        young = guard.limits.oldest_allowed + 1
        if count <= young or (fresh and not self.overlapping):
            return
        if guard.limits.max_age is not None:
            _logger.warning(
                "%s looks once for %s=%d actions: with max_age=%d the guard stops the robot at the last %d of them",
                self.policy, name, count, guard.limits.max_age, count - young,
            )  # fmt: skip
            return
        given = (
            f"{self.policy} acts {count} host steps on one look at its images ({name}={count}), and the guard's "
            f"max_age, which was not said, is {MAX_AGE}: it would let {young} actions pass and stop {count - young}"
        )
        if self.overlapping:
            raise ConfigError(
                f"{given}. With real-time chunking depth is as old as its chunk, fresh=True or not: say max_age, how "
                "old depth may be. So many rows of each chunk are executed: chunk_size less the queue_threshold at "
                "which LeRobot makes the next, and those that go by until that is there"
            )
        raise ConfigError(
            f"{given}. Give the depth step fresh=True (the tower runs at every step; add_depth(…, fresh=True), or "
            "connect the fresh step first), the policy fewer n_action_steps, or the guard an explicit max_age, if "
            f"depth of {count - 1} steps ago is recent enough for this robot"
        )


def _policy_class() -> type[nn.Module] | None:
    """The class of all LeRobot's policies; None where it was never imported, and so none can be alive."""
    return getattr(sys.modules.get("lerobot.policies.pretrained"), "PreTrainedPolicy", None)


def _count(config: object, name: str, default: int) -> int:
    try:
        return _checks.integer(name, getattr(config, name, None), 1, sys.maxsize)
    except ConfigError:
        return default


def _misfit(policy: nn.Module, head: DepthHead) -> str:
    """Why the head does not fit this policy; empty where it does."""
    try:
        return "; ".join(head.config.mismatches(registry.find_tower(policy).spec))
    except SpaceClipError as error:
        return str(error)
