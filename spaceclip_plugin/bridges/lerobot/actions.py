"""What a robot is sent instead of the policy's actions, one by one or in chunks, by what the guard decided."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from spaceclip_plugin import _checks
from spaceclip_plugin.errors import ConfigError, HostError
from spaceclip_plugin.guard import HOLD, PASS, SLOW, GuardDecision

VELOCITY, POSITION = ACTION_KINDS = ("velocity", "position")
"""What an action commands: a motion, of which zero is none (velocities, differences), or a place to go to."""

_LARGEST_ACTION = 1e6


class ActionsSent:
    """Turns decisions into actions, and remembers what was sent last, which is where a position holds.

    Attributes:
        kind: "velocity" or "position".
        stop_action: what to send at a stop, in the robot's units; None: zero, or the last one sent.
    """

    def __init__(self, kind: str, stop_action: Sequence[float] | None) -> None:
        self.kind = _checks.choice("actions", kind, ACTION_KINDS)
        self.stop_action: tuple[float, ...] | None = None
        if stop_action is not None:
            self.stop_action = _checks.reals(
                "stop_action", stop_action, -_LARGEST_ACTION, _LARGEST_ACTION, length=len(stop_action)
            )
        self.forget()

    def forget(self) -> None:
        """Nothing was sent yet: another episode begins."""
        self._chunk: Tensor | None = None

    @property
    def last(self) -> Tensor | None:
        """(B, A): the last row of what was sent last; None before the first."""
        return None if self._chunk is None else self._chunk[:, -1]

    def send(self, chunk: Tensor, decisions: Sequence[Sequence[GuardDecision]], *, overlapping: bool = False) -> Tensor:
        """What to send, and from now on what was sent.

        Args:
            chunk: (B, T, A) what the policy wants of B robots in the next T host steps.
            decisions: T of each robot.
            overlapping: whether a chunk begins while the one before it is still executed, as in real-time chunking.
                No step is told at which row; the one nearest to the new chunk's first is taken for the last one sent.
                To hold the old chunk's last row would be a motion, to a place the robot has not reached.

        Returns:
            (B, T, A).

        Raises:
            HostError: a position is to be held, and none was sent yet.
            ConfigError: `stop_action` is of another length than the actions.
        """
        if self.stop_action is not None and len(self.stop_action) != chunk.shape[-1]:  # known before there is a stop
            raise ConfigError(f"stop_action has {len(self.stop_action)} values, the actions have {chunk.shape[-1]}")
        before = self._chunk
        if before is not None and (len(before) != len(chunk) or before.shape[-1] != chunk.shape[-1]):
            before = None  # of other robots
        sent = []
        for robot, (rows, decided) in enumerate(zip(chunk, decisions, strict=True)):
            last = None if before is None else _last_row(before[robot], rows[0], overlapping=overlapping)
            acted = []
            for row, decision in zip(rows, decided, strict=True):
                last = self._acted(decision, row, last)
                acted.append(last)
            sent.append(torch.stack(acted))
        self._chunk = torch.stack(sent)
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


def _last_row(sent: Tensor, first: Tensor, *, overlapping: bool) -> Tensor:
    """(A,) the row of (T, A) that counts as sent last: its last, or the one nearest to the next chunk's first."""
    if not overlapping:
        return sent[-1]
    distance = (sent.to(first) - first).square().sum(dim=-1)
    return sent[int(distance.argmin())]


def as_chunk(action: Tensor) -> Tensor:
    """(B, T, A) of an action (A,) of one robot, one action (B, A) of each of several, or a chunk (B, T, A) of each.

    Raises:
        HostError: another shape, or no action in it.
    """
    if action.ndim not in (1, 2, 3) or 0 in action.shape:
        raise HostError(
            "the guard takes actions (A,) of one robot, (B, A) of several or chunks of them (B, T, A), got shape "
            f"{tuple(action.shape)}"
        )
    return action[None, None] if action.ndim == 1 else action[:, None] if action.ndim == 2 else action
