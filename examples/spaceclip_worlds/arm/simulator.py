"""One compiled MuJoCo model, its state, and the pictures of its cameras."""

from __future__ import annotations

from dataclasses import dataclass
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
from typing_extensions import Self

from spaceclip_worlds.opengl import able_to_draw, load_mujoco


@dataclass(frozen=True, eq=False)
class Picture:
    """What a simulated camera sees.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        depth_m: (H, W) float32 metres along the optical axis.
    """

    image: npt.NDArray[np.uint8]
    depth_m: npt.NDArray[np.float32]


class Simulation:
    """One compiled model with its state; the renderer is made when the first picture is asked for.

    Attributes:
        mujoco: the package.
        model, data: MuJoCo's own.
    """

    def __init__(self, xml: str, *, image_hw: tuple[int, int]) -> None:
        """Compile a model.

        Raises:
            ConfigError: MuJoCo is missing, see `load_mujoco`.
        """
        self.mujoco = load_mujoco()
        self.model: Any = self.mujoco.MjModel.from_xml_string(xml)
        self.data: Any = self.mujoco.MjData(self.model)
        self.mujoco.mj_forward(self.model, self.data)
        self._image_hw = image_hw
        self._renderer: Any = None

    def picture(self, camera: str) -> Picture:
        """What the camera of that name sees now.

        Raises:
            ConfigError: there is no OpenGL to draw with.
        """
        if self._renderer is None:
            height, width = self._image_hw
            with able_to_draw():
                self._renderer = self.mujoco.Renderer(self.model, height, width)
        self._renderer.update_scene(self.data, camera)
        image = np.array(self._renderer.render(), dtype=np.uint8)
        self._renderer.enable_depth_rendering()
        depth_m = np.array(self._renderer.render(), dtype=np.float32)
        self._renderer.disable_depth_rendering()
        return Picture(image, depth_m)

    def camera_pose(self, camera: str) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Position (3,) in the world and rotation (3, 3) to it of a camera with axes right, down and forward."""
        pose = self.data.camera(camera)
        # MuJoCo's cameras look along their negative z axis, with y up.
        return np.array(pose.xpos), np.array(pose.xmat).reshape(3, 3) * np.array([1.0, -1.0, -1.0])

    def close(self) -> None:
        """Free the OpenGL context; may be called again."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
