"""spaceclip_plugin's rover as a gymnasium environment; importing this registers `--env.type=rover` with LeRobot."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import gymnasium
import numpy as np
from lerobot.configs.types import FeatureType, PolicyFeature
from lerobot.envs.configs import EnvConfig

from spaceclip_worlds.rover.pose import Action
from spaceclip_worlds.rover.world import IMAGE_HW, MAX_SPEED_MPS, MAX_TURN_RPS, STEP_S, Outcome, RoverWorld

CAMERA = "front"
FPS = round(1 / STEP_S)


class RoverEnv(gymnasium.Env[dict[str, Any], np.ndarray]):
    """Drives to what it is told. Actions: speed (m/s) and turn rate (rad/s). State: x (m), y (m), heading (rad)."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": FPS}  # noqa: RUF012 - gymnasium declares it so

    def __init__(self, render_mode: str = "rgb_array", max_episode_steps: int = 300) -> None:
        self.render_mode = render_mode
        self._max_episode_steps = max_episode_steps
        image = gymnasium.spaces.Box(0, 255, (*IMAGE_HW, 3), np.uint8)
        place = gymnasium.spaces.Box(-100.0, 100.0, (3,), np.float64)
        self.observation_space = gymnasium.spaces.Dict(
            {"pixels": gymnasium.spaces.Dict({CAMERA: image}), "agent_pos": place}
        )
        most = np.array([MAX_SPEED_MPS, MAX_TURN_RPS], dtype=np.float32)
        self.action_space = gymnasium.spaces.Box(-most, most, dtype=np.float32)
        self._world = RoverWorld()

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Start an episode; the same seed gives the same arena."""
        super().reset(seed=seed)
        self._world.reset(int(self.np_random.integers(2**31)))
        return self._look(), {"is_success": False}

    def step(self, action: np.ndarray) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """Drive for a step; the reward is the metres by which the goal came nearer."""
        gap_m = self._world.goal_gap_m
        outcome = self._world.step(Action(float(action[0]), float(action[1])))
        reached = outcome is Outcome.GOAL
        ended = reached or outcome is Outcome.COLLISION
        cut = not ended and (outcome is not None or self._world.steps >= self._max_episode_steps)
        return self._look(), gap_m - self._world.goal_gap_m, ended, cut, {"is_success": reached}

    def render(self) -> np.ndarray:
        """What the rover sees."""
        return self._seen.image

    @property
    def task(self) -> str:
        """Name of what is to be done."""
        return "drive"

    @property
    def task_description(self) -> str:
        """What the rover is told."""
        return self._world.instruction

    def _look(self) -> dict[str, Any]:
        self._seen = self._world.observe()
        pose = self._seen.pose
        return {
            "pixels": {CAMERA: self._seen.image},
            "agent_pos": np.array([pose.x_m, pose.y_m, pose.heading_rad], dtype=np.float64),
        }


gymnasium.register(id="gym_rover/Drive-v0", entry_point=RoverEnv)


@EnvConfig.register_subclass("rover")
@dataclass
class RoverEnvConfig(EnvConfig):
    """`--env.type=rover`."""

    task: str | None = "Drive-v0"
    fps: int = FPS
    episode_length: int = 300
    features: dict[str, PolicyFeature] = field(
        default_factory=lambda: {
            "action": PolicyFeature(FeatureType.ACTION, (2,)),
            "agent_pos": PolicyFeature(FeatureType.STATE, (3,)),
            f"pixels/{CAMERA}": PolicyFeature(FeatureType.VISUAL, (*IMAGE_HW, 3)),
        }
    )
    features_map: dict[str, str] = field(
        default_factory=lambda: {
            "action": "action",
            "agent_pos": "observation.state",
            f"pixels/{CAMERA}": f"observation.images.{CAMERA}",
        }
    )

    @property
    def gym_kwargs(self) -> dict[str, Any]:
        """How `gymnasium.make` is to make it."""
        return {"render_mode": "rgb_array", "max_episode_steps": self.episode_length}
