"""A live task of Meta-World: an environment to act in, and a camera that was mounted again for every start of it."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
from typing_extensions import Self

from spaceclip_plugin import Intrinsics
from spaceclip_plugin._checks import choice, whole
from spaceclip_plugin.errors import ConfigError
from spaceclip_worlds.metaworld.cameras import CAMERAS, Pose, moved
from spaceclip_worlds.metaworld.easel import Easel
from spaceclip_worlds.metaworld.episode import STANDARD, Picture
from spaceclip_worlds.metaworld.frame import Frame
from spaceclip_worlds.metaworld.states import scripted_policy, task_environment
from spaceclip_worlds.metaworld.tasks import TEST_TASKS, TRAINING_TASKS
from spaceclip_worlds.opengl import load_mujoco

LIVE_TASKS = (*TRAINING_TASKS, *TEST_TASKS)

Array = npt.NDArray[np.float64]

_MAX_SEED = 2**31 - 1
_SIDE_PX = (8, 2048)


class LiveTask:
    """One task of Meta-World, its goals not hidden, drawn within this process in Meta-World's own look.

    A seed decides where things stand at the start and how the camera was mounted: some 6 cm and 3 degrees off, so that
    no pixel tells a distance. Starting again with another seed takes a tenth of the time of making one; it shows what
    a new one of that seed would. Close it when done, or use it in a `with` statement: it holds an OpenGL context.

    Attributes:
        task: Meta-World's name of it.
        camera: which of `CAMERAS` it is seen from.
        environment: Meta-World's, with MuJoCo's `model` and `data`.
        observation: (39,) of now, as the scripted policies take it; metres.
        success: whether Meta-World has called the task done since the start.
        steps: made since the start.
    """

    environment: Any
    observation: Array
    success: bool
    steps: int

    def __init__(
        self,
        task: str,
        seed: int = 0,
        *,
        camera: str = "corner2",
        image_hw: tuple[int, int] = (224, 224),
        plain: bool = False,
        higher: tuple[int, float] | None = None,
    ) -> None:
        """Make and start a task.

        Args:
            task: one of `LIVE_TASKS`.
            seed: see `start`.
            camera: one of `CAMERAS`.
            image_hw: size of pictures in pixels.
            plain: whether they are without shadows, reflections and smooth edges, and so drawn much sooner by a CPU.
            higher: which number of Meta-World's random start is a height, and by how many metres at most it may be more
                than in Meta-World; None changes nothing.

        Raises:
            ConfigError: an unknown task or camera, another value that cannot be, Meta-World or MuJoCo is not installed,
                or there is no OpenGL to draw with.
        """
        self.task = choice("task of a live task", task, LIVE_TASKS)
        self.camera = choice("camera of a live task", camera, CAMERAS)
        self._image_hw = (
            whole("height of a live task's pictures", image_hw[0], *_SIDE_PX),
            whole("width of a live task's pictures", image_hw[1], *_SIDE_PX),
        )
        _checked_seed(seed)
        self._mujoco = load_mujoco()
        self.environment = task_environment(task, seed)
        if higher is not None:
            index, more_m = higher
            space = self.environment._random_reset_space
            high = space.high.copy()
            high[index] += more_m
            self.environment._random_reset_space = type(space)(space.low, high, dtype=np.float64)
        self._easel = Easel(self.environment, Picture(self._image_hw, (camera,), STANDARD), plain=plain)
        self.start(seed)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Free the OpenGL context."""
        self._easel.close()

    def start(self, seed: int) -> Array:
        """Set everything up anew, and mount the camera again.

        Args:
            seed: of both, 0 to 2^31 - 1.

        Returns:
            The observation.

        Raises:
            ConfigError: another seed.
        """
        self.environment._freeze_rand_vec, self.environment.seeded_rand_vec = False, True
        self.environment.seed(_checked_seed(seed))
        self.environment.reset()
        self._mujoco.mj_forward(self.environment.model, self.environment.data)  # what was set up, some tasks only now
        self.observation = self.environment._get_obs()
        self.observation[18:36] = self.observation[:18]
        generator = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(LIVE_TASKS.index(self.task),)))
        self._mount = moved(self.camera, np.eye(4), generator)
        self.success, self.steps = False, 0
        return self.observation

    def step(self, action: npt.ArrayLike) -> Array:
        """Act for 12.5 ms.

        Args:
            action: (4,) as Meta-World takes it: motion of the hand, then effort of the fingers; cut to [-1, 1].

        Returns:
            The observation after it.

        Raises:
            ConfigError: Meta-World's 500 steps have been made.
        """
        if self.steps >= self.environment.max_path_length:
            raise ConfigError(f"{self.task} has had its {self.steps} steps; start(seed) begins anew")
        wanted = np.clip(np.asarray(action, dtype=np.float32), -1.0, 1.0)
        self.observation, _, _, _, told = self.environment.step(wanted)
        self.success = self.success or bool(told["success"])
        self.steps += 1
        return self.observation

    def expert(self) -> Callable[[Array], Array]:
        """Meta-World's scripted policy of the task: observation to action."""
        return scripted_policy(self.task)

    def pose(self) -> Pose:
        """Where the camera is now: (4, 4) camera to world, as in `Frame`."""
        return self._easel.place(self.camera)[0] @ self._mount

    def render(self, pose: Pose | None = None) -> Frame:
        """What is seen now, with exact depth.

        Args:
            pose: of the camera; None where it is mounted.
        """
        pose, fovy_rad = self._look(pose)
        intrinsics = Intrinsics.from_fovy(fovy_rad, self._image_hw)
        return Frame(self._easel.image(), self._easel.depth_m(), intrinsics, self.camera, pose)

    def image(self) -> npt.NDArray[np.uint8]:
        """(H, W, 3) RGB of `render`, for who needs no depth."""
        self._look(None)
        return self._easel.image()

    def parts(self, pose: Pose | None = None) -> npt.NDArray[np.int32]:
        """(H, W, 2): number and kind (`mjtObj`) of what the depth of `render` is of, both -1 where nothing is."""
        self._look(pose)
        return self._easel.parts()

    def _look(self, pose: Pose | None) -> tuple[Pose, float]:
        """Point the lens, with the marks of goals where the goals are; its pose and vertical field of view."""
        mounted, fovy_rad = self._easel.place(self.camera)
        pose = mounted @ self._mount if pose is None else pose
        self._easel.point(pose, fovy_rad)
        for name, place_m in self.environment._target_site_config:  # every step of MuJoCo's moves them away
            self.environment.data.site(name).xpos[:] = place_m[:3]
        return pose, fovy_rad


def _checked_seed(seed: int) -> int:
    return whole("seed of a live task", seed, 0, _MAX_SEED)
