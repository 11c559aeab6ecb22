"""A robot for LeRobot's own loops: it sees noise, and writes down every action that it is sent."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
from lerobot.robots import Robot, RobotConfig

from spaceclip_worlds.rover.world import IMAGE_HW

JOINTS = ("x.pos", "y.pos", "heading.pos")
MOTIONS = ("speed.vel", "turn.vel")


@RobotConfig.register_subclass("scripted")
@dataclass
class ScriptedConfig(RobotConfig):
    """`--robot.type=scripted`."""

    log: str = "sent.jsonl"


class Scripted(Robot):
    """Stands where it is, whatever it is sent."""

    config_class = ScriptedConfig
    name = "scripted"

    def __init__(self, config: ScriptedConfig) -> None:
        super().__init__(config)
        self._log, self._open = config.log, False
        self._looks = np.random.default_rng(0)

    @property
    def observation_features(self) -> dict[str, Any]:
        return {**dict.fromkeys(JOINTS, float), "front": (*IMAGE_HW, 3)}

    @property
    def action_features(self) -> dict[str, Any]:
        return dict.fromkeys(MOTIONS, float)

    @property
    def is_connected(self) -> bool:
        return self._open

    @property
    def is_calibrated(self) -> bool:
        return True

    def connect(self, calibrate: bool = True) -> None:
        self._open = True

    def calibrate(self) -> None:
        pass

    def configure(self) -> None:
        pass

    def get_observation(self) -> dict[str, Any]:
        image = self._looks.integers(0, 256, (*IMAGE_HW, 3), dtype=np.uint8)
        return {**dict.fromkeys(JOINTS, 0.0), "front": image}

    def send_action(self, action: dict[str, Any]) -> dict[str, Any]:
        with open(self._log, "a") as log:
            log.write(json.dumps([float(action[name]) for name in MOTIONS]) + "\n")
        return action

    def disconnect(self) -> None:
        self._open = False
