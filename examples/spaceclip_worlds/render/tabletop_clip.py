"""A tabletop that a camera is carried round while one of its objects is lifted and turned; needs no simulator."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import numpy as np

from spaceclip_worlds.checks import whole
from spaceclip_worlds.clip import FRAME_S, ClipFrame
from spaceclip_worlds.orbit import Orbit, Pose
from spaceclip_worlds.render.raycaster import render
from spaceclip_worlds.render.scene import Primitive, Scene, rotation_about
from spaceclip_worlds.render.tabletop import random_tabletop

_LONGEST = 1000
_MAX = 10**9
_SIDE_PX = (8, 2048)
_SMALL_M = 0.1
_LIFT_M, _LIFT_FRAMES = 0.1, 40
_TURN_RAD = math.radians(3.0)  # a frame


@dataclass(frozen=True)
class TabletopClip:
    """A clip of a rendered tabletop.

    The object that is nearest to the middle of the first picture rises by 10 cm and comes down again, as if an unseen
    hand had it, once in 40 frames. The same clip comes again from the same machine with the same number of torch
    threads; elsewhere, the last bit of a few pixels may differ.

    Attributes:
        length: frames.
        seed: decides scene and camera path.
        height_px, width_px: size of image, depth and mask.

    Raises:
        ConfigError: one of them is out of range.

    Example:
        >>> first, second = TabletopClip(2, height_px=48, width_px=48).frames()
        >>> second.depth_m.shape, second.time_s, bool(second.moved.any())
        ((48, 48), 0.05, True)
    """

    length: int = 40
    seed: int = 0
    height_px: int = 224
    width_px: int = 224

    def __post_init__(self) -> None:
        whole("length of a tabletop clip", self.length, 1, _LONGEST)
        whole("seed of a tabletop clip", self.seed, 0, _MAX)
        whole("height_px of a tabletop clip", self.height_px, *_SIDE_PX)
        whole("width_px of a tabletop clip", self.width_px, *_SIDE_PX)

    def __str__(self) -> str:
        return f"tabletop, seed {self.seed}"

    def frames(self) -> tuple[ClipFrame, ...]:
        """Render them, in the order of time."""
        generator = np.random.default_rng(self.seed)
        scene = _scene(generator)
        orbit = Orbit.over(scene.camera.pose(), _table_top_m(scene), generator=generator)
        lifted = _in_the_middle(scene, orbit.pose(0))
        return tuple(self._frame(scene, orbit, lifted, number) for number in range(self.length))

    def _frame(self, scene: Scene, orbit: Orbit, lifted: int, number: int) -> ClipFrame:
        pose = orbit.pose(number)
        x, y, z = pose[:3, 3].tolist()
        camera = dataclasses.replace(scene.camera, position_m=(x, y, z), rotation=pose[:3, :3])
        primitives = list(scene.primitives)
        primitives[lifted] = _lifted(primitives[lifted], number)
        now = dataclasses.replace(scene, camera=camera, primitives=tuple(primitives))
        seen = render(now, (self.height_px, self.width_px))
        moved = seen.primitive == lifted
        return ClipFrame(seen.image, seen.depth_m, moved, seen.intrinsics, pose, number * FRAME_S)


def _table_top_m(scene: Scene) -> float:
    top = scene.primitives[0]
    return top.centre_m[2] + top.half_extents_m[2]


def _scene(generator: np.random.Generator) -> Scene:
    """A tabletop that something stands on."""
    while True:
        scene = random_tabletop(generator)
        if _objects(scene):
            return scene


def _objects(scene: Scene) -> list[int]:
    """The primitives that stand on the table: furniture is larger, and everything else is lower."""
    top_m = _table_top_m(scene)
    return [
        index
        for index, one in enumerate(scene.primitives)
        if one.centre_m[2] > top_m and max(one.half_extents_m) < _SMALL_M
    ]


def _in_the_middle(scene: Scene, pose: Pose) -> int:
    """The object that is nearest to the optical axis by angle."""
    to_camera = np.linalg.inv(pose)

    def off_axis_rad(index: int) -> float:
        x, y, z, _ = to_camera @ (*scene.primitives[index].centre_m, 1.0)
        return math.atan2(math.hypot(x, y), z)

    return min(_objects(scene), key=off_axis_rad)


def _lifted(primitive: Primitive, number: int) -> Primitive:
    """Where it is in a frame. It only rises and turns about itself, and so meets none of its neighbours."""
    x, y, z = primitive.centre_m
    height_m = z + 0.5 * _LIFT_M * (1.0 - math.cos(2.0 * math.pi * number / _LIFT_FRAMES))
    turned = rotation_about((0.0, 0.0, 1.0), _TURN_RAD * number) @ primitive.rotation
    return dataclasses.replace(primitive, centre_m=(x, y, height_m), rotation=turned)
