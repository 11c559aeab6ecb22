"""Films clips: a task set up at random, Meta-World's scripted policy that does it, and a camera on its path."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from spaceclip_plugin import Intrinsics
from spaceclip_worlds.clip import FRAME_S, ClipFrame
from spaceclip_worlds.metaworld.easel import Easel
from spaceclip_worlds.metaworld.episode import STANDARD, Picture
from spaceclip_worlds.metaworld.states import TaskStates
from spaceclip_worlds.metaworld.tasks import TEST_TASKS, TRAINING_TASKS
from spaceclip_worlds.opengl import load_mujoco
from spaceclip_worlds.orbit import Orbit

STATIC, MOVING, WRIST = "static", "moving", "wrist"
MOUNTS = {STATIC: "corner2", MOVING: "corner2", WRIST: "gripperPOV"}
"""How a camera is held, and which of Meta-World's it is: it stands still, is carried about, or hangs from the hand."""

FILMED_TASKS = (*TRAINING_TASKS, *TEST_TASKS)

_NO_ERRORS = (0.0, 0.0)
_TABLE_M = 0.0  # height of its top in Meta-World
_MOVED = 1e-4  # metres, and entries of a rotation: less is trembling


@dataclass(frozen=True)
class Shot:
    """What decides a clip: with one task and one seed, the same happens in front of every camera.

    Attributes:
        task: one of `FILMED_TASKS`.
        camera: one of `MOUNTS`.
        length: frames.
        seed: of the task's start and of the path of a moving camera.
        image_hw: size in pixels.
    """

    task: str
    camera: str
    length: int
    seed: int
    image_hw: tuple[int, int]

    def generator(self) -> np.random.Generator:
        """The source of every choice. Its key is shorter than those of episodes, and so none of theirs."""
        return np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(FILMED_TASKS.index(self.task),)))

    def __str__(self) -> str:
        return f"{self.task}, {self.camera} camera, {self.length} frames, seed {self.seed}"


def film(shot: Shot) -> Iterator[ClipFrame]:
    """The frames of a clip, in the order of time and in Meta-World's own look.

    Raises:
        ConfigError: Meta-World or MuJoCo is not installed, or there is no OpenGL to draw with.
    """
    load_mujoco()
    generator, name = shot.generator(), MOUNTS[shot.camera]
    states = TaskStates(shot.task, generator, errors=_NO_ERRORS)
    steps = round(FRAME_S / states.environment.dt)
    motion = _Motion(states.environment)
    with contextlib.closing(Easel(states.environment, Picture(shot.image_hw, (name,), STANDARD))) as easel:
        orbit = Orbit.over(easel.place(name)[0], _TABLE_M, generator=generator) if shot.camera == MOVING else None
        for number in range(shot.length):
            states.advance(steps * (number + 1))  # so that something was before the first frame, too
            pose, fovy_rad = easel.place(name)
            pose = pose if orbit is None else orbit.pose(number)
            easel.point(pose, fovy_rad)
            moved = motion.seen_in(easel.parts())
            intrinsics = Intrinsics.from_fovy(fovy_rad, shot.image_hw)
            yield ClipFrame(easel.image(), easel.depth_m(), moved, intrinsics, pose, number * FRAME_S)


class _Motion:
    """What has moved in the world from one frame to the next."""

    def __init__(self, environment: Any) -> None:
        kinds = load_mujoco().mjtObj
        data = environment.data
        self._poses = {
            int(kinds.mjOBJ_GEOM): (data.geom_xpos, data.geom_xmat),
            int(kinds.mjOBJ_SITE): (data.site_xpos, data.site_xmat),
        }
        self._before = self._now()

    def seen_in(self, parts: npt.NDArray[np.int32]) -> npt.NDArray[np.bool_]:
        """(H, W): where a part is seen that has moved since the last call.

        Args:
            parts: (H, W, 2) as `Easel.parts` gives them.
        """
        now = self._now()
        number, kind = parts[..., 0], parts[..., 1]
        moved = np.zeros(number.shape, dtype=bool)
        for each, poses in now.items():
            changed = np.any(np.abs(poses - self._before[each]) > _MOVED, axis=1)
            shown = kind == each
            moved[shown] = changed[number[shown]]
        self._before = now
        return moved

    def _now(self) -> dict[int, npt.NDArray[np.float64]]:
        """(N, 12) positions and rotations of all parts of each kind."""
        return {kind: np.concatenate(poses, axis=1) for kind, poses in self._poses.items()}
