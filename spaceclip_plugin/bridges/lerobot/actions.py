"""Chunks of actions: how many a policy makes of one look at its images, and what a robot is sent instead of them."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from spaceclip_plugin import _checks
from spaceclip_plugin.errors import ConfigError, HostError
from spaceclip_plugin.guard import HOLD, MAX_AGE, PASS, SLOW, GuardDecision, GuardLimits

VELOCITY, POSITION = ACTION_KINDS = ("velocity", "position")
"""What an action commands: a motion, of which zero is none (velocities, differences), or a place to go to."""

_LARGEST_ACTION = 1e6
_logger = logging.getLogger(__name__)


class ActionsSent:
    """Turns decisions into actions, and remembers what was sent last, which is where a position holds."""

    def __init__(self, kind: str, stop_action: Sequence[float] | None) -> None:
        self.kind = _checks.choice("actions", kind, ACTION_KINDS)
        self.stop_action: tuple[float, ...] | None = None
        if stop_action is not None:
            bounds = (-_LARGEST_ACTION, _LARGEST_ACTION)
            self.stop_action = _checks.reals("stop_action", stop_action, *bounds, length=len(stop_action))
        self.forget()

    def forget(self) -> None:
        """Nothing was sent yet: another episode begins."""
        self._chunk: Tensor | None = None

    @property
    def last(self) -> Tensor | None:
        """(B, A): the last row of what was sent last; None before the first."""
        return None if self._chunk is None else self._chunk[:, -1]

    def send(self, chunk: Tensor, decisions: Sequence[Sequence[GuardDecision]], *, overlapping: bool = False) -> Tensor:
        """What to send, (B, T, A), instead of what the policy wants of B robots in their next T host steps.

        From now on it was sent. HostError where a position is to be held and none was sent before.
        """
        if self.stop_action is not None and len(self.stop_action) != chunk.shape[-1]:  # known before there is a stop
            raise ConfigError(f"stop_action has {len(self.stop_action)} values, the actions have {chunk.shape[-1]}")
        before = self._chunk
        if before is not None and (len(before) != len(chunk) or before.shape[-1] != chunk.shape[-1]):
            before = None  # of other robots
        sent = []
        for robot, (rows, decided) in enumerate(zip(chunk, decisions, strict=True)):
            last = None
            if before is not None:
                # No step is told at which row an overlapping chunk begins: the row nearest to its first was sent last.
                # To hold the old chunk's last row would be a motion, to a place the robot has not reached.
                distance = (before[robot].to(rows) - rows[0]).square().sum(dim=-1)
                last = before[robot, int(distance.argmin()) if overlapping else -1]
            for row, decision in zip(rows, decided, strict=True):
                last = self._acted(decision, row, last)
                sent.append(last)
        self._chunk = torch.stack(sent).reshape(chunk.shape)
        return self._chunk.clone()

    def _acted(self, decision: GuardDecision, row: Tensor, last: Tensor | None) -> Tensor:
        """What to send instead of, or as, one robot's action (A,)."""
        if decision.reaction == PASS:
            return row
        if decision.reaction == SLOW and self.kind == VELOCITY:
            return decision.factor * row
        if decision.reaction == SLOW and last is not None:
            return last + decision.factor * (row - last)
        if decision.reaction != HOLD and self.stop_action is not None:
            return row.new_tensor(self.stop_action)
        if self.kind == VELOCITY:
            return torch.zeros_like(row)
        if last is None:
            raise HostError(
                f"the guard says {decision.reaction!r} before any position was sent: {decision.reason}. There is no "
                "place to hold; give stop_action, the position to send then"
            )
        return last


def as_chunk(action: Tensor) -> Tensor:
    """(B, T, A) of an action (A,) of one robot, one action (B, A) of each of several, or a chunk (B, T, A) of each."""
    if action.ndim not in (1, 2, 3) or 0 in action.shape:
        raise HostError(
            "the guard takes actions (A,) of one robot, (B, A) of several or chunks of them (B, T, A), got shape "
            f"{tuple(action.shape)}"
        )
    return action[None, None] if action.ndim == 1 else action[:, None] if action.ndim == 2 else action


@dataclass(frozen=True)
class ActionChunks:
    """How many actions a policy makes out of one look at its images."""

    policy: str  # its class name
    queued: int  # handed out one by one before it looks again
    chunk: int  # handed over at once by real-time chunking
    overlapping: bool  # real-time chunking is on: a chunk begins while the one before it is still executed

    @classmethod
    def of(cls, policy: nn.Module) -> ActionChunks:
        """As the policy's configuration says by now; one action where it says nothing."""
        config = getattr(policy, "config", None)
        queued = _count(config, "n_action_steps", 1)
        overlapping = bool(getattr(getattr(config, "rtc_config", None), "enabled", False))
        return cls(type(policy).__name__, queued, _count(config, "chunk_size", queued), overlapping)

    def check(self, limits: GuardLimits, *, fresh: bool) -> None:
        """Refuse a guard whose depth would be too old for most actions; warn where someone said its `max_age`.

        `fresh` depth is refreshed at every host step.
        """
        name, count = ("chunk_size", self.chunk) if self.overlapping else ("n_action_steps", self.queued)
        young = limits.oldest_allowed + 1
        if count <= young or (fresh and not self.overlapping):
            return
        if limits.max_age is not None:
            _logger.warning(
                "%s looks once for %s=%d actions: with max_age=%d the guard stops the robot at the last %d of them",
                self.policy, name, count, limits.max_age, count - young,
            )  # fmt: skip
            return
        remedy = (
            "Give the depth step fresh=True, which runs the tower at every step (and connect it first), the policy "
            f"fewer n_action_steps, or the guard an explicit max_age, if depth of {count - 1} steps ago is recent "
            "enough for this robot"
        )
        if self.overlapping:
            remedy = (
                "With real-time chunking depth is as old as its chunk, fresh=True or not: say max_age, how old depth "
                "may be. So many rows of each chunk are executed: chunk_size less the queue_threshold at which "
                "LeRobot makes the next, and those that go by until that is there"
            )
        raise ConfigError(
            f"{self.policy} acts {count} host steps on one look at its images ({name}={count}), and the guard's "
            f"max_age, which was not said, is {MAX_AGE}: it would let {young} actions pass and stop {count - young}. "
            f"{remedy}"
        )


def _count(config: object, name: str, default: int) -> int:
    try:
        return _checks.integer(name, getattr(config, name, None), 1, sys.maxsize)
    except ConfigError:
        return default
