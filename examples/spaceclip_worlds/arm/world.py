"""The arm at its table: what it sees, how it moves, and what it touched."""

from __future__ import annotations

from types import TracebackType

import numpy as np
from typing_extensions import Self

from spaceclip_plugin import Intrinsics
from spaceclip_worlds import checks
from spaceclip_worlds.arm.kinematics import JointAngles, joint_angles
from spaceclip_worlds.arm.observation import Observation
from spaceclip_worlds.arm.scene import FOVY_RAD, OPEN_M, ArmScene, mjcf, random_scene
from spaceclip_worlds.arm.simulator import Simulation
from spaceclip_worlds.render.scene import Camera, Vector

IMAGE_HW = (112, 112)
TABLE_CAMERA, WRIST_CAMERA = "table0", "wrist"
_HOME = JointAngles(0.0, -0.35, 1.9, 1.2, 0.0)
_JOINTS = 5
_SETTLE_S = 0.2
_RAMP = 0.8
_MAX_SEED = 2**63 - 1
_GRIPPER = {"palm", "left", "right"}
_HARMLESS = _GRIPPER | {"block"}


class ArmWorld:
    """One arm before one random table; a context manager that frees what draws it.

    Attributes:
        scene: what is on the table.
    """

    def __init__(self, seed: int = 0, *, cameras: int = 1) -> None:
        """Set up the table of a seed: the same seed gives the same table.

        Raises:
            ConfigError: not an integer from 0 to 2**63 - 1, or MuJoCo is missing.
        """
        seed = checks.whole("seed of an arm's world", seed, 0, _MAX_SEED)
        generator = np.random.default_rng(np.random.SeedSequence(seed))
        self.scene: ArmScene = random_scene(generator, cameras=cameras)
        self._simulation = Simulation(mjcf(self.scene), image_hw=IMAGE_HW)
        self._place(_HOME)
        self._wait(_SETTLE_S)

    @property
    def block_m(self) -> Vector:
        """Where the block's centre is: the truth."""
        x, y, z = self._simulation.data.body("block").xpos.tolist()
        return (x, y, z)

    @property
    def tool_m(self) -> Vector:
        """Where the middle between the fingertips is; joint encoders tell it."""
        x, y, z = self._simulation.data.site("tool").xpos.tolist()
        return (x, y, z)

    @property
    def touches(self) -> bool:
        """Whether the gripper touches anything but the block and itself."""
        model, data = self._simulation.model, self._simulation.data
        pairs = [{str(model.geom(int(geom)).name) for geom in contact.geom} for contact in data.contact]
        return any(pair & _GRIPPER and not pair <= _HARMLESS for pair in pairs)

    def observe(self, camera: str = TABLE_CAMERA) -> Observation:
        """Look through "table0", "table1", … or the hand's "wrist".

        Raises:
            ConfigError: there is no OpenGL to draw with.
        """
        picture = self._simulation.picture(camera)
        (x, y, z), rotation = self._simulation.camera_pose(camera)
        pose = Camera((float(x), float(y), float(z)), rotation, FOVY_RAD)
        intrinsics = Intrinsics.from_fovy(FOVY_RAD, IMAGE_HW)
        return Observation(picture.image, picture.depth_m, intrinsics, pose)

    def move_to(self, tool_m: Vector, *, seconds: float = 0.8, opening_m: float = OPEN_M) -> bool:
        """Move the tool there, pointing down; a point out of reach is approached.

        Args:
            tool_m: where the middle between the fingertips is wanted.
            seconds: simulated.
            opening_m: how far each finger is to stand from the middle.

        Returns:
            Whether the gripper touched anything but the block on its way.
        """
        data = self._simulation.data
        start = np.array(data.ctrl)
        end = np.array([*joint_angles(tool_m).as_tuple(), opening_m, opening_m])
        steps, touched = round(seconds / self._simulation.model.opt.timestep), False
        for step in range(steps):
            done = min((step + 1) / (_RAMP * steps), 1.0)
            data.ctrl[:_JOINTS] = (start + (end - start) * done)[:_JOINTS]
            data.ctrl[_JOINTS:] = end[_JOINTS:]
            self._simulation.mujoco.mj_step(self._simulation.model, data)
            touched = touched or (data.ncon > 0 and self.touches)
        return touched

    def pose_at(self, tool_m: Vector) -> None:
        """Set the arm there at once, without moving: for pictures from many places."""
        self._place(joint_angles(tool_m))

    def close(self) -> None:
        """Free the OpenGL context; may be called again."""
        self._simulation.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _place(self, angles: JointAngles) -> None:
        simulation = self._simulation
        wanted = (*angles.as_tuple(), OPEN_M, OPEN_M)
        names = ("turn", "shoulder", "elbow", "bend", "roll", "left", "right")
        for name, value in zip(names, wanted, strict=True):
            simulation.data.joint(name).qpos[0] = value
        simulation.data.ctrl[:] = wanted
        simulation.mujoco.mj_forward(simulation.model, simulation.data)

    def _wait(self, seconds: float) -> None:
        for _ in range(round(seconds / self._simulation.model.opt.timestep)):
            self._simulation.mujoco.mj_step(self._simulation.model, self._simulation.data)
