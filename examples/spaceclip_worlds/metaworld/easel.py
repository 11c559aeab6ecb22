"""Draws what Meta-World's cameras see, with MuJoCo's renderer."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from spaceclip_plugin import Intrinsics
from spaceclip_worlds.metaworld.cameras import Pose, moved, other_fovy_rad, upright
from spaceclip_worlds.metaworld.episode import FRAMES, MOVED, VARIED, Episode, Picture
from spaceclip_worlds.metaworld.frame import Frame
from spaceclip_worlds.metaworld.looks import vary
from spaceclip_worlds.metaworld.placement import Mark, Placement, looked_from
from spaceclip_worlds.metaworld.states import LAST_STEP, TaskStates
from spaceclip_worlds.opengl import able_to_draw, load_mujoco

_LENS = "corner2"  # the one camera of the model that is put wherever one looks from
_SEE_THROUGH = 0.5  # opacity below which a pane has the depth of what is behind it
_PANES = 5  # the group of geoms that Meta-World leaves empty
_NOTHING = np.float32(np.inf)
"""Depth where a ray meets nothing, as `DepthSample` says it: beyond Meta-World's floor is no room."""


def draw_episode(episode: Episode, picture: Picture) -> Iterator[Frame]:
    """The `FRAMES` frames of an episode, in the order of time.

    Raises:
        ConfigError: Meta-World or MuJoCo is not installed, or there is no OpenGL to draw with.
    """
    load_mujoco()
    generator = episode.generator()
    states = TaskStates(episode.task, generator)
    if picture.look == VARIED:
        vary(states.environment.model, generator)
    steps = np.sort(generator.integers(0, LAST_STEP, FRAMES))
    with contextlib.closing(Easel(states.environment, picture)) as easel:
        for step in steps.tolist():
            states.advance(step)
            yield easel.draw(generator)


class Easel:
    """Draws the state that an environment is in."""

    def __init__(self, environment: Any, picture: Picture, *, plain: bool = False) -> None:
        """Make a renderer for an environment's model, whose looks it must not change any more.

        Args:
            environment: Meta-World's.
            picture: what is drawn.
            plain: without shadows, reflections and smooth edges, which take most of the time where no GPU draws.

        Raises:
            ConfigError: there is no OpenGL to draw with.
        """
        self._mujoco = load_mujoco()
        self._model, self._data, self._picture = environment.model, environment.data, picture
        self._solid, self._all = self._mujoco.MjvOption(), self._mujoco.MjvOption()
        self._model.geom_group[self._panes()] = _PANES
        self._all.geomgroup[_PANES] = 1
        self._lens = self._model.camera(_LENS).id
        self._fovy_deg = self._model.cam_fovy.copy()
        height, width = picture.image_hw
        offscreen = self._model.vis.global_
        offscreen.offheight, offscreen.offwidth = max(offscreen.offheight, height), max(offscreen.offwidth, width)
        if plain:
            self._model.vis.quality.offsamples = 0
        with able_to_draw():
            self._renderer = self._mujoco.Renderer(self._model, height, width)
        if plain:
            for flag in (self._mujoco.mjtRndFlag.mjRND_SHADOW, self._mujoco.mjtRndFlag.mjRND_REFLECTION):
                self._renderer.scene.flags[flag] = 0

    def close(self) -> None:
        """Free the OpenGL context."""
        self._renderer.close()

    def draw(self, generator: np.random.Generator) -> Frame:
        """What one of the cameras sees now; the generator chooses which, where it stands, and what is elsewhere."""
        name = self._picture.cameras[generator.integers(len(self._picture.cameras))]
        pose, fovy_rad = self.place(name)
        if self._picture.look == VARIED:
            pose, fovy_rad = moved(name, pose, generator), other_fovy_rad(fovy_rad, generator)
        if self._picture.look == MOVED:
            pose = looked_from(name, pose, generator)
            placement = Placement.drawn(generator)
            with placement.shown_in(self._model, self._data):
                return self._frame(name, pose, fovy_rad, placement.marks)
        return self._frame(name, pose, fovy_rad)

    def place(self, name: str) -> tuple[Pose, float]:
        """Where the camera of that name stands, upright, and its vertical field of view."""
        self._mujoco.mj_camlight(self._model, self._data)  # the lens may stand elsewhere since the last picture
        index = self._model.camera(name).id
        pose = np.eye(4)
        # MuJoCo's cameras look along their negative z axis, with y up.
        pose[:3, :3] = self._data.cam_xmat[index].reshape(3, 3) * [1.0, -1.0, -1.0]
        pose[:3, 3] = self._data.cam_xpos[index]
        return upright(name, pose), math.radians(self._fovy_deg[index])

    def point(self, pose: Pose, fovy_rad: float) -> None:
        """Put the lens somewhere. Through MuJoCo's data, since the model would need `mj_forward`, which moves the marks
        of goals away from where Meta-World put them."""
        self._data.cam_xpos[self._lens] = pose[:3, 3]
        self._data.cam_xmat[self._lens] = (pose[:3, :3] * [1.0, -1.0, -1.0]).ravel()
        self._model.cam_fovy[self._lens] = math.degrees(fovy_rad)

    def image(self, marks: Sequence[Mark] = ()) -> npt.NDArray[np.uint8]:
        """(H, W, 3) RGB through the lens, with marks in the air that are not the task's."""
        self._renderer.update_scene(self._data, self._lens, self._all)
        self._add(marks)
        return np.array(self._renderer.render(), dtype=np.uint8)

    def depth_m(self, marks: Sequence[Mark] = ()) -> npt.NDArray[np.float32]:
        """(H, W) metres along the optical axis, infinite where nothing is."""
        self._renderer.update_scene(self._data, self._lens, self._solid)
        self._add(marks)
        self._renderer.enable_depth_rendering()
        depth_m = np.array(self._renderer.render(), dtype=np.float32)
        self._renderer.disable_depth_rendering()
        # What was never drawn on keeps the depth of the far plane, over 100 m; Meta-World's floor ends after 4 m.
        far_m = self._model.vis.map.zfar * self._model.stat.extent
        depth_m[depth_m > 0.5 * far_m] = _NOTHING
        return depth_m

    def parts(self) -> npt.NDArray[np.int32]:
        """(H, W, 2): the number and the kind (`mjtObj`) of what has that depth, both -1 where nothing is."""
        self._renderer.update_scene(self._data, self._lens, self._solid)
        self._renderer.enable_segmentation_rendering()
        parts = np.array(self._renderer.render(), dtype=np.int32)
        self._renderer.disable_segmentation_rendering()
        return parts

    def _frame(self, name: str, pose: Pose, fovy_rad: float, marks: Sequence[Mark] = ()) -> Frame:
        self.point(pose, fovy_rad)
        intrinsics = Intrinsics.from_fovy(fovy_rad, self._picture.image_hw)
        return Frame(self.image(marks), self.depth_m(marks), intrinsics, name, pose)

    def _add(self, marks: Sequence[Mark]) -> None:
        mujoco, scene = self._mujoco, self._renderer.scene
        for mark in marks:
            ball, size = scene.geoms[scene.ngeom], np.array([mark.radius_m, 0.0, 0.0])
            rgba = np.array([*mark.colour, 1.0], dtype=np.float32)
            mujoco.mjv_initGeom(ball, mujoco.mjtGeom.mjGEOM_SPHERE, size, mark.place_m, np.eye(3).ravel(), rgba)
            ball.category = mujoco.mjtCatBit.mjCAT_STATIC  # as the task's own marks are
            ball.objtype, ball.objid = mujoco.mjtObj.mjOBJ_UNKNOWN, -1
            ball.segid = scene.ngeom  # MuJoCo leaves it as it finds it, and gives no depth to what has a negative one
            scene.ngeom += 1

    def _panes(self) -> npt.NDArray[np.bool_]:
        """(geoms,): those that are drawn, and seen through."""
        material = self._model.geom_matid
        opacity = np.where(material >= 0, self._model.mat_rgba[material, 3], self._model.geom_rgba[:, 3])
        drawn = np.array(self._solid.geomgroup, dtype=bool)[self._model.geom_group]
        panes: npt.NDArray[np.bool_] = drawn & (opacity < _SEE_THROUGH)
        return panes
