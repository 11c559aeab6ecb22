"""Meta-World's cameras as policies see through them, and how far they are moved for variety.

Most of Meta-World's cameras hang upside down. LeRobot moves `corner2` and turns its pictures round; here the camera is
turned instead, which gives the same pixels, and one pose that is true of both picture and depth.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Pose = npt.NDArray[np.float64]
"""(4, 4) camera to world in metres: camera axes x right, y down, z forward; world axes Meta-World's, z up."""

_HALF_TURN = np.diag([-1.0, -1.0, 1.0, 1.0])
_TILT_DEG = 3.0
_FOVY_SHARE = (0.85, 1.2)


@dataclass(frozen=True)
class View:
    """What is done to one camera of Meta-World.

    Attributes:
        upside_down: whether it is turned round its optical axis.
        position_m: where it is put in the world; None leaves it where it is.
        play_m: standard deviation along each axis of the places it is seen from for variety.
    """

    upside_down: bool
    position_m: tuple[float, float, float] | None = None
    play_m: float = 0.06


CAMERAS = {
    "corner": View(upside_down=True),
    # lerobot/envs/metaworld.py of LeRobot 0.6: moved there, and pictures flipped along both axes.
    "corner2": View(upside_down=True, position_m=(0.75, 0.075, 0.7)),
    "corner3": View(upside_down=True),
    "topview": View(upside_down=False),
    "gripperPOV": View(upside_down=False, play_m=0.005),
}


def upright(name: str, pose: Pose) -> Pose:
    """The pose that a camera gives upright pictures from, of the one that Meta-World gives it."""
    view = CAMERAS[name]
    turned: Pose = pose @ _HALF_TURN if view.upside_down else pose.copy()
    if view.position_m is not None:
        turned[:3, 3] = view.position_m
    return turned


def moved(name: str, pose: Pose, generator: np.random.Generator) -> Pose:
    """The pose of a camera that was mounted again, with no more care than people take."""
    jitter = np.eye(4)
    jitter[:3, :3] = _rotation(np.radians(generator.normal(0.0, _TILT_DEG, 3)))
    jitter[:3, 3] = generator.normal(0.0, CAMERAS[name].play_m, 3)
    result: Pose = pose @ jitter
    return result


def other_fovy_rad(fovy_rad: float, generator: np.random.Generator) -> float:
    """The vertical field of view of a lens that is up to a fifth shorter or longer."""
    return 2.0 * math.atan(math.tan(0.5 * fovy_rad) * generator.uniform(*_FOVY_SHARE))


def _rotation(vector_rad: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Rodrigues' formula."""
    angle = float(np.linalg.norm(vector_rad))
    if angle == 0.0:
        return np.eye(3)
    x, y, z = vector_rad / angle
    cross = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    rotation: npt.NDArray[np.float64] = np.eye(3) + math.sin(angle) * cross + (1.0 - math.cos(angle)) * cross @ cross
    return rotation
