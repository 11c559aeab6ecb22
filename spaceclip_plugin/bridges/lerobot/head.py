"""What both of LeRobot's processor steps are: carriers of a head, whose weights travel in the pipeline's files."""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from spaceclip_plugin import DepthHead, DepthHeadConfig, _checks
from spaceclip_plugin.bridges.lerobot.lenses import as_lists, checked_intrinsics
from spaceclip_plugin.bridges.lerobot.link import DepthLink
from spaceclip_plugin.bridges.lerobot.policy import policy_inside
from spaceclip_plugin.depth import Intrinsics
from spaceclip_plugin.errors import CheckpointError, ConfigError
from spaceclip_plugin.head.weights import check_size, matched_state, writable

HeadLike = DepthHead | Mapping[str, Any] | str | Path
"""A head, its config (the weights then come with the step's state), or its folder."""


class HeadStep:
    """A step that carries a head in its state, and the link to the policy that the head reads."""

    def __init__(
        self,
        head: HeadLike,
        *,
        allow_untrained: bool,
        intrinsics: Mapping[str, Intrinsics | Sequence[float]] | None = None,
        policy: nn.Module | None = None,
    ) -> None:
        if isinstance(head, (str, Path)):
            head = DepthHead.from_pretrained(head)
        elif isinstance(head, Mapping):
            head = _without_weights(DepthHeadConfig.from_dict(head))
        if not isinstance(head, DepthHead) or head.fused:
            raise ConfigError(
                f"a step carries an unfused DepthHead, its config or its folder, got {type(head).__name__}"
            )
        if not head.trained and not _checks.truth("allow_untrained", allow_untrained):
            raise ConfigError(
                "the head was not trained: its depth means nothing, and no robot may act on it. Train it "
                "(`spaceclip train`), or give allow_untrained=True to try the machinery"
            )
        self.head = head.eval()  # without weights (on the meta device) until its state is loaded
        self.allow_untrained = allow_untrained
        self.intrinsics = checked_intrinsics(intrinsics)
        self._link: DepthLink | None = None
        # Linked at the first call: weights may still be on their way.
        self._policy = None if policy is None else weakref.ref(policy_inside(policy))

    def connect(self, policy: nn.Module) -> None:
        """Read the tower of this live policy, which stays the caller's to keep alive.

        Raises:
            HostError: no tower, or several, or the policy is read by another head already.
            HeadMismatchError: the head does not fit the tower.
            CheckpointError: the head's weights were never loaded.
            ConfigError: the step's settings make no sense for this policy.
        """
        policy = policy_inside(policy)
        self._link_to(policy)
        self._policy = weakref.ref(policy)

    def state_dict(self) -> dict[str, Tensor]:
        """The head's weights, on the CPU."""
        return writable(self.head.state_dict())

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take weights for the head, strictly; the step links itself to its policy anew.

        Raises:
            CheckpointError: weights that are missing, unknown, mis-shaped or not finite.
        """
        source = f"the state of {type(self).__name__}"
        head = _without_weights(self.head.config)
        expected = head.state_dict()
        check_size(expected, source=source)
        head.load_state_dict(matched_state(state, expected, source=source), assign=True)
        self.head, self._link = head.eval(), None

    def transform_features(self, features: Any) -> Any:
        """As they are: nothing is added."""
        return features

    def __getstate__(self) -> dict[str, Any]:
        # A copy of the step, or a process that unpickles it, must be told its policy anew.
        return {**self.__dict__, "_link": None, "_policy": None}

    def _saved_intrinsics(self) -> dict[str, Any]:
        """For the config; nothing where there are none, which older versions read."""
        return {"intrinsics": as_lists(self.intrinsics)} if self.intrinsics else {}

    def _adopt(self, link: DepthLink) -> None:
        """Check the step's settings against the policy, and tell the link what its other steps must know."""

    def _forget(self) -> None:
        if self._link is not None and self._link.alive:
            self._link.start_over()

    def _linked(self) -> DepthLink:
        if self._link is not None and self._link.alive:
            return self._link
        return self._link_to(None if self._policy is None else self._policy())

    def _link_to(self, policy: nn.Module | None) -> DepthLink:
        if any(parameter.is_meta for parameter in self.head.parameters()):
            raise CheckpointError(
                "the head of this step has no weights: its safetensors file did not come along; save the pipeline again"
            )
        link = DepthLink.guessed(self.head) if policy is None else DepthLink.to(policy, self.head)
        link.lenses.tell(self.intrinsics, cameras=link.cameras.values())
        self._adopt(link)
        self._link = link
        return link


def _without_weights(config: DepthHeadConfig) -> DepthHead:
    with torch.device("meta"):
        return DepthHead(config)
