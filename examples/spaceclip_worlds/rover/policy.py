"""A small language-conditioned policy: a SigLIP-like tower finds what the instruction names, and drives straight there.

It is a clone of `naive_action`, which knows where the goal is and ignores whatever stands in between.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from spaceclip_plugin.errors import ConfigError
from spaceclip_worlds.rover.instruction import WORDS, encode
from spaceclip_worlds.rover.pose import Action
from spaceclip_worlds.rover.world import BODY_RADIUS_M, IMAGE_HW, MAX_SPEED_MPS, MAX_TURN_RPS, Observation

WIDTH, BLOCKS, HEADS, MLP_WIDTH, PATCH = 144, 5, 6, 288, 8
GRID_HW = (IMAGE_HW[0] // PATCH, IMAGE_HW[1] // PATCH)
SEARCH = Action(0.0, 0.8)
"""What to do while the goal was never seen: turn around."""
PARTS = ("floor", "wall", "obstacle", "goal")
"""What a patch may show; walls and ceiling are one."""
IN_SIGHT = 0.6
"""Probability from which a goal counts as seen."""
_GOAL_RADIUS_M = 0.25
_TURN_GAIN, _SLOWING, _MIN_SPEED_MPS = 2.0, 0.6, 0.1
_HIDDEN = 128
_TRUST = 0.5


@dataclass(frozen=True, eq=False)
class PolicyOutput:
    """What the network says about a batch of images and instructions.

    Attributes:
        told: (B, 4) forward speed in m/s, turn rate in rad/s, bearing of the named goal in rad (counter-clockwise) and
            logarithm of its distance in metres; the last two mean nothing where it is not seen.
        place: (B, 1 + patches) logarithm of the probability that the goal is out of sight, then that it is at each
            patch, in raster order.
        parts: (B, patches, 4) logarithm of how much of each patch shows each of `PARTS`. Driving does not use it: it is
            how the tower learns to see more than goals, as towers of larger policies do from pictures and captions.
    """

    told: Tensor
    place: Tensor
    parts: Tensor

    @property
    def action(self) -> Tensor:
        """(B, 2) forward speed in m/s and turn rate in rad/s."""
        return self.told[:, :2]

    @property
    def goal_m(self) -> Tensor:
        """(B, 2) where the named goal is, metres forward and left of the rover."""
        bearing, distance = self.told[:, 2], self.told[:, 3].clamp(-3.0, 3.0).exp()
        return torch.stack([distance * bearing.cos(), distance * bearing.sin()], dim=-1)

    @property
    def in_sight(self) -> Tensor:
        """(B,) probability that the named goal is in the picture."""
        return 1.0 - self.place[:, 0].exp()


def naive_action(goal_m: tuple[float, float]) -> Action:
    """Straight to a goal, slower close to it, whatever is in between.

    Args:
        goal_m: its centre, metres forward and left of the rover.
    """
    bearing_rad = math.atan2(goal_m[1], goal_m[0])
    gap_m = math.hypot(*goal_m) - _GOAL_RADIUS_M - BODY_RADIUS_M
    speed_mps = min(max(_SLOWING * gap_m, _MIN_SPEED_MPS), MAX_SPEED_MPS) * max(0.0, math.cos(bearing_rad))
    return Action(speed_mps, min(max(_TURN_GAIN * bearing_rad, -MAX_TURN_RPS), MAX_TURN_RPS))


class RoverPolicy(nn.Module):
    """Image and instruction to action; remembers where it last saw the goal, by odometry.

    Attributes:
        tower: a transformers `SiglipVisionModel`.
    """

    def __init__(self) -> None:
        from transformers import SiglipVisionConfig, SiglipVisionModel

        super().__init__()
        config = SiglipVisionConfig(
            hidden_size=WIDTH,
            intermediate_size=MLP_WIDTH,
            num_hidden_layers=BLOCKS,
            num_attention_heads=HEADS,
            image_size=IMAGE_HW[0],
            patch_size=PATCH,
        )
        self.tower = SiglipVisionModel(config)
        self.words = nn.Embedding(len(WORDS), WIDTH)
        self.question = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.GELU(), nn.Linear(WIDTH, WIDTH))
        self.key = nn.Linear(WIDTH, WIDTH)
        self.absent = nn.Linear(2 * WIDTH, 1)
        self.judge = nn.Sequential(nn.Linear(2 * WIDTH + 5, _HIDDEN), nn.GELU(), nn.Linear(_HIDDEN, 4))
        self.parts = nn.Linear(WIDTH, len(PARTS))
        self.register_buffer("patch_xy", _patch_centres(), persistent=False)
        self.reset()

    def forward(self, pixels: Tensor, words: Tensor) -> PolicyOutput:
        """One look.

        Args:
            pixels: (B, 3, 112, 112) in [-1, 1].
            words: (B, T) int64 from `instruction.encode`.
        """
        seen = self.tower(pixel_values=pixels)
        tokens, question = seen.last_hidden_state, self.question(self.words(words).mean(dim=1))
        match = (self.key(tokens) @ question[:, :, None])[..., 0] / math.sqrt(WIDTH)
        absent = self.absent(torch.cat([seen.pooler_output, question], dim=-1))
        place = torch.cat([absent, match], dim=-1).float().log_softmax(dim=-1)
        shares = place[:, 1:].softmax(dim=-1).to(tokens.dtype)
        centre = shares @ cast(Tensor, self.patch_xy)
        spread = shares @ cast(Tensor, self.patch_xy).square() - centre.square()
        found = (shares[:, None] @ tokens)[:, 0]
        out_of_sight = place[:, :1].exp().to(tokens.dtype)
        told = self.judge(torch.cat([found, seen.pooler_output, centre, spread, out_of_sight], dim=-1)).float()
        return PolicyOutput(told=told, place=place, parts=self.parts(tokens).float().log_softmax(dim=-1))

    def reset(self) -> None:
        """Forget the goal: another episode begins."""
        self._goal_m: npt.NDArray[np.float64] | None = None

    @torch.no_grad()
    def select_action(self, observation: Observation) -> Action:
        """The action for what is seen now; the goal's place is remembered for when it is hidden.

        Raises:
            ConfigError: the instruction holds an unknown word, or the image has another size.
        """
        parameter = next(self.parameters())
        words = torch.tensor([encode(observation.instruction)], device=parameter.device)
        output = self(to_pixels([observation.image]).to(parameter), words)
        pose = observation.pose
        if float(output.in_sight[0]) >= IN_SIGHT:
            goal_m = np.array(pose.to_world(*output.goal_m[0].tolist()))
            self._goal_m = goal_m if self._goal_m is None else (1.0 - _TRUST) * self._goal_m + _TRUST * goal_m
            speed_mps, turn_rps = output.action[0].tolist()
            return Action(min(max(speed_mps, 0.0), MAX_SPEED_MPS), min(max(turn_rps, -MAX_TURN_RPS), MAX_TURN_RPS))
        if self._goal_m is None:
            return SEARCH
        remembered_m = pose.to_rover(*self._goal_m.tolist())
        if math.hypot(*remembered_m) < _GOAL_RADIUS_M + BODY_RADIUS_M:
            self.reset()  # it would be in sight if it were here
            return SEARCH
        return naive_action(remembered_m)


def to_pixels(images: Sequence[npt.NDArray[np.uint8]]) -> Tensor:
    """(B, 3, 112, 112) float32 in [-1, 1] from images (112, 112, 3) uint8 RGB.

    Raises:
        ConfigError: an image of another size or dtype.
    """
    for image in images:
        if image.shape != (*IMAGE_HW, 3) or image.dtype != np.uint8:
            raise ConfigError(
                f"the rover's images are uint8 RGB of shape {(*IMAGE_HW, 3)}, got {image.dtype} of shape {image.shape}"
            )
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 127.5 - 1.0


def _patch_centres() -> Tensor:
    """(patches, 2) x and y in [-1, 1], raster order."""
    rows, columns = ((torch.arange(count) + 0.5) * 2.0 / count - 1.0 for count in GRID_HW)
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    return torch.stack([x, y], dim=-1).flatten(0, 1)
