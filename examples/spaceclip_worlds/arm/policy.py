"""A stand-in for a policy with several cameras, whose tower is that of the rover's policy."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from spaceclip_worlds.rover.embedded import POLICY_FILE, load_policy
from spaceclip_worlds.rover.policy import to_pixels

ACTION_SIZE = 7


class ArmPolicy(nn.Module):
    """One call of a frozen SigLIP-like tower for each camera, then an action.

    The action only says that the host ran: nothing here taught it to move an arm. Moving is done through depth.

    Attributes:
        tower: a transformers `SiglipVisionModel`.
    """

    def __init__(self, tower: nn.Module) -> None:
        super().__init__()
        self.tower = tower

    @torch.no_grad()
    def select_action(self, images: Sequence[npt.NDArray[np.uint8]]) -> Tensor:
        """Look at one image per camera, in order.

        Args:
            images: (112, 112, 3) uint8 RGB each.

        Returns:
            (7,) float32.

        Raises:
            ConfigError: an image of another size or dtype.
        """
        seen = [self.tower(pixel_values=to_pixels([image])).pooler_output[0] for image in images]
        action: Tensor = torch.stack(seen).mean(dim=0)[:ACTION_SIZE]
        return action


def load_arm_policy(path: str | Path = POLICY_FILE) -> ArmPolicy:
    """The stand-in on the tower of the rover's policy: frozen, in eval mode, on the CPU.

    Args:
        path: of that policy; that of this package if not given.

    Raises:
        CheckpointError: no such file, or a damaged one.
    """
    return ArmPolicy(load_policy(path).tower).eval().requires_grad_(False)
