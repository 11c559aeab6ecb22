"""A rover in an arena: what it sees, how it moves, and how an episode ends."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import numpy as np
import numpy.typing as npt

from spaceclip_plugin import Intrinsics
from spaceclip_plugin.errors import ConfigError
from spaceclip_worlds import checks
from spaceclip_worlds.render.raycaster import render
from spaceclip_worlds.render.scene import Camera
from spaceclip_worlds.rover.arena import Arena, footprint_distance_m, random_arena
from spaceclip_worlds.rover.pose import Action, Pose

IMAGE_HW = (112, 112)
BODY_RADIUS_M = 0.18
STEP_S = 0.2
MAX_SPEED_MPS, MAX_TURN_RPS = 0.5, 1.2
REACHED_M = 0.35
"""A goal is reached when no more than this is left between it and the rover's body."""
TIMEOUT_S = 60.0
_TOUCH_M = 1e-4
_MAX_SEED = 2**63 - 1


class Outcome(Enum):
    """How an episode ended."""

    GOAL = "goal"
    COLLISION = "collision"
    TIMEOUT = "timeout"


@dataclass(frozen=True, eq=False)
class Observation:
    """What the rover knows at one moment.

    Attributes:
        image: (112, 112, 3) uint8 RGB.
        instruction: what it was told.
        pose: by odometry, from where it started; exact here.
        camera: pose of its camera in the frame of odometry, the floor at height 0.
        intrinsics: of the image.
        depth_m: (112, 112) float32 metres along the optical axis: the truth, which only a simulator tells.
        solid: (112, 112) int16 index into the arena's solids, -1 where the room shows; also the truth.
    """

    image: npt.NDArray[np.uint8]
    instruction: str
    pose: Pose
    camera: Camera
    intrinsics: Intrinsics
    depth_m: npt.NDArray[np.float32]
    solid: npt.NDArray[np.int16]


class RoverWorld:
    """One rover in one arena after another.

    Attributes:
        arena: the present one.
        pose: of the rover in the arena.
        steps: taken in this episode.
        time_s: since its start; it stops where the episode ends.
        outcome: how the episode ended, None while it goes on.
    """

    arena: Arena
    pose: Pose
    steps: int
    time_s: float
    outcome: Outcome | None

    def __init__(self, seed: int = 0) -> None:
        """Start the episode of a seed, see `reset`."""
        self.reset(seed)

    def reset(self, seed: int) -> None:
        """Start the episode of a seed: the same seed gives the same arena, start and instruction.

        Raises:
            ConfigError: not an integer from 0 to 2**63 - 1.
        """
        seed = checks.whole("seed of an episode", seed, 0, _MAX_SEED)
        self.arena = random_arena(np.random.default_rng(np.random.SeedSequence(seed)))
        self.pose = self.arena.start
        self.steps, self.time_s, self.outcome = 0, 0.0, None

    @property
    def instruction(self) -> str:
        """What the rover is told: to drive to the arena's first goal."""
        return self.arena.goals[0].instruction

    @property
    def clearance_m(self) -> float:
        """Metres between the rover's body and the nearest wall or solid."""
        return self.arena.clearance_m(self.pose.x_m, self.pose.y_m) - BODY_RADIUS_M

    @property
    def goal_gap_m(self) -> float:
        """Metres between the rover's body and the named goal."""
        return footprint_distance_m(self.arena.goals[0].solid, self.pose.x_m, self.pose.y_m) - BODY_RADIUS_M

    def observe(self) -> Observation:
        """Look, and read the odometer."""
        rendering = render(self.arena.scene(self.pose.camera()), IMAGE_HW)
        pose = self.pose.relative_to(self.arena.start)
        return Observation(
            image=rendering.image,
            instruction=self.instruction,
            pose=pose,
            camera=pose.camera(),
            intrinsics=rendering.intrinsics,
            depth_m=rendering.depth_m,
            solid=rendering.primitive,
        )

    def step(self, action: Action) -> Outcome | None:
        """Drive for `STEP_S`, within the rover's limits of speed and turn rate; touching anything ends the episode.

        The arc is followed by no more than the free space around the rover at a time, so it drives through nothing.

        Returns:
            How the episode ended, None while it goes on.

        Raises:
            ConfigError: the episode is over; `reset` starts another.
        """
        if self.outcome is not None:
            raise ConfigError(f"the episode is over ({self.outcome.value}); start another with reset(seed)")
        action = Action(
            min(max(action.speed_mps, 0.0), MAX_SPEED_MPS), min(max(action.turn_rps, -MAX_TURN_RPS), MAX_TURN_RPS)
        )
        start, begun_s, driven_s = self.pose, self.time_s, 0.0
        while driven_s < STEP_S and self.outcome is None:
            free_s = self.clearance_m / action.speed_mps if action.speed_mps > 0.0 else STEP_S
            driven_s = min(driven_s + max(free_s, _TOUCH_M), STEP_S)
            self.pose = start.moved(action, driven_s)
            if self.clearance_m < _TOUCH_M:
                self.outcome = Outcome.COLLISION
            elif self.goal_gap_m <= REACHED_M:
                self.outcome = Outcome.GOAL
        self.steps += 1
        self.time_s = begun_s + driven_s
        if self.outcome is None and self.time_s >= TIMEOUT_S - 0.5 * STEP_S:
            self.outcome = Outcome.TIMEOUT
        return self.outcome
