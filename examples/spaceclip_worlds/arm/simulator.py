"""MuJoCo behind one door: an optional package that draws with OpenGL, and says what is missing where it cannot."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
from typing_extensions import Self

from spaceclip_plugin.errors import ConfigError

_NO_DRAWING = (
    "MuJoCo cannot draw here: {error}. Without a screen, set the environment variable MUJOCO_GL before Python starts: "
    "to egl, which needs Debian's libegl1 and libgl1-mesa-dri, or to osmesa, which needs libosmesa6"
)


@dataclass(frozen=True, eq=False)
class Picture:
    """What a simulated camera sees.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        depth_m: (H, W) float32 metres along the optical axis.
    """

    image: npt.NDArray[np.uint8]
    depth_m: npt.NDArray[np.float32]


def load_mujoco() -> Any:
    """The package `mujoco`.

    Raises:
        ConfigError: it is not installed, or finds no OpenGL of the kind that MUJOCO_GL names.
    """
    # Mesa draws with an LLVM library of its own: Triton, which torch imports when it first trains or compiles, crashes
    # the process where it is loaded after that one, not where it is loaded before.
    if "mujoco" not in sys.modules and importlib.util.find_spec("triton") is not None:
        importlib.import_module("triton")
    try:
        return importlib.import_module("mujoco")
    except ModuleNotFoundError as error:
        if error.name == "mujoco":
            raise ConfigError(
                "this needs MuJoCo, which is not installed; pip install 'spaceclip-plugin[sim]'"
            ) from error
        raise ConfigError(_NO_DRAWING.format(error=error)) from error
    except (ImportError, AttributeError, RuntimeError, OSError) as error:  # however PyOpenGL fails
        raise ConfigError(_NO_DRAWING.format(error=error)) from error


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
            try:
                self._renderer = self.mujoco.Renderer(self.model, height, width)
            except (ImportError, AttributeError, RuntimeError, OSError) as error:
                raise ConfigError(_NO_DRAWING.format(error=error)) from error
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
