"""One random table for the arm, as numbers and as MuJoCo's XML: a red block on a stand, distractors, cameras.

Nothing is read from files: solids, colours and textures are drawn here.
"""

from __future__ import annotations

import colorsys
import math
from dataclasses import dataclass

import numpy as np

from spaceclip_worlds.arm.kinematics import FOREARM_M, HAND_M, SHOULDER_HEIGHT_M, UPPER_ARM_M
from spaceclip_worlds.render.scene import Camera, Vector

FOVY_RAD = math.radians(50.0)
"""All cameras have one lens, that of `data.tabletop`, so that metric depth can be read from one picture."""
BLOCK_HALF_M = 0.02
TABLE_LOW_M, TABLE_HIGH_M = (-0.2, -0.65), (0.95, 0.65)
"""Corners of the table top, x and y in the world; its height is 0."""
FLOOR_M = -0.5
OPEN_M = 0.045
"""How far each finger stands from the middle when the gripper is open."""
_WRIST_TILT_RAD = math.radians(12.0)
_TARGET_M = (0.4, 0.0, 0.05)
_NEAR_BASE_M = 0.22
_TRIES = 200

Colour = tuple[float, float, float]


@dataclass(frozen=True)
class Distractor:
    """A solid on the table that is not to be touched.

    Attributes:
        shape: MuJoCo's word for it: "box", "cylinder" or "ellipsoid".
        centre_m: in the world.
        half_extents_m: along its own axes.
        yaw_rad: about the vertical.
        colour: sRGB in [0, 1].
    """

    shape: str
    centre_m: Vector
    half_extents_m: Vector
    yaw_rad: float
    colour: Colour


@dataclass(frozen=True)
class ArmScene:
    """What stands on the table and how it is lit and seen.

    Attributes:
        block_xy_m: where the block stands.
        block_yaw_rad: how it is turned.
        stand_m: height of the stand it is on; nothing but depth tells it.
        distractors: what else is on the table.
        cameras: around the table, known to whoever looks.
        colours: of table (two), floor (two), wall and stand.
        checkered: whether the table is checkered.
        light_m: where the lamp hangs.
    """

    block_xy_m: tuple[float, float]
    block_yaw_rad: float
    stand_m: float
    distractors: tuple[Distractor, ...]
    cameras: tuple[Camera, ...]
    colours: tuple[Colour, ...]
    checkered: bool
    light_m: Vector

    @property
    def block_m(self) -> Vector:
        """Centre of the block as it is set down."""
        return (*self.block_xy_m, self.stand_m + BLOCK_HALF_M)


def random_scene(generator: np.random.Generator, *, cameras: int = 1) -> ArmScene:
    """Draw a scene with that many cameras."""
    reach_m, azimuth_rad = generator.uniform((0.3, -0.6), (0.5, 0.6)).tolist()
    block_xy_m = (reach_m * math.cos(azimuth_rad), reach_m * math.sin(azimuth_rad))
    stand_m = float(generator.uniform(0.01, 0.15))
    return ArmScene(
        block_xy_m=block_xy_m,
        block_yaw_rad=float(generator.uniform(-0.5, 0.5)),
        stand_m=stand_m,
        distractors=_distractors(generator, block_xy_m),
        cameras=tuple(random_camera(generator) for _ in range(cameras)),
        colours=tuple(_muted(generator) for _ in range(6)),
        checkered=bool(generator.random() < 0.5),
        light_m=tuple(generator.uniform((-0.2, -0.8, 1.3), (1.0, 0.8, 2.0)).tolist()),
    )


def random_camera(generator: np.random.Generator) -> Camera:
    """A camera on the side of the table that the arm faces, looking at its middle."""
    azimuth_rad, elevation_rad = np.radians(generator.uniform((-75.0, 25.0), (75.0, 60.0))).tolist()
    distance_m = float(generator.uniform(0.7, 1.05))
    aside_m = distance_m * math.cos(elevation_rad)
    position_m = (
        _TARGET_M[0] + aside_m * math.cos(azimuth_rad),
        _TARGET_M[1] + aside_m * math.sin(azimuth_rad),
        _TARGET_M[2] + distance_m * math.sin(elevation_rad),
    )
    target_m = tuple((np.array(_TARGET_M) + generator.uniform(-0.05, 0.05, 3)).tolist())
    return Camera.looking_at(position_m, target_m, fovy_rad=FOVY_RAD)


def mjcf(scene: ArmScene) -> str:
    """The scene and the arm as MuJoCo's XML."""
    table, table_too, floor, floor_too, wall, stand = (_numbers(colour) for colour in scene.colours)
    builtin = 'builtin="checker"' if scene.checkered else 'builtin="gradient"'
    (low_x, low_y), (high_x, high_y) = TABLE_LOW_M, TABLE_HIGH_M
    middle_x, half_x, half_y = 0.5 * (low_x + high_x), 0.5 * (high_x - low_x), 0.5 * (high_y - low_y)
    x, y, z = scene.block_m
    return f"""<mujoco model="arm">
  <compiler angle="radian"/>
  <option timestep="0.002" integrator="implicitfast" cone="elliptic" impratio="10"/>
  <visual>
    <map znear="0.02" zfar="8"/> <quality shadowsize="1024" offsamples="4"/>
    <headlight ambient="0.35 0.35 0.35" diffuse="0.25 0.25 0.25" specular="0 0 0"/>
  </visual>
  <statistic extent="1" center="0.4 0 0.2"/>
  <asset>
    <texture name="table" type="2d" {builtin} width="128" height="128" rgb1="{table}" rgb2="{table_too}"/>
    <texture name="floor" type="2d" builtin="checker" width="128" height="128" rgb1="{floor}" rgb2="{floor_too}"/>
    <material name="table" texture="table" texrepeat="6 6"/>
    <material name="floor" texture="floor" texrepeat="4 4" texuniform="true"/>
  </asset>
  <default>
    <geom friction="1.2 0.02 0.001" condim="4"/>
    <joint damping="6" armature="0.1"/>
    <default class="seen"><geom contype="0" conaffinity="0" rgba="0.85 0.85 0.87 1"/></default>
  </default>
  <worldbody>
    <light pos="{_numbers(scene.light_m)}" dir="0 0 -1" cutoff="80" diffuse="0.7 0.7 0.7" specular="0.1 0.1 0.1"/>
    <geom name="floor" type="plane" size="4 4 0.1" pos="0 0 {FLOOR_M}" material="floor"/>
    <geom class="seen" type="box" size="0.05 2.5 2" pos="-1.4 0 1" rgba="{wall} 1"/>
    <geom class="seen" type="box" size="2.5 0.05 2" pos="0.4 -1.9 1" rgba="{wall} 1"/>
    <geom class="seen" type="box" size="2.5 0.05 2" pos="0.4 1.9 1" rgba="{wall} 1"/>
    <geom name="table" type="box" size="{half_x} {half_y} 0.02" pos="{middle_x} 0 -0.02" material="table"/>
    <geom name="stand" type="box" size="0.035 0.035 {0.5 * scene.stand_m}" pos="{x} {y} {0.5 * scene.stand_m}"
      euler="0 0 {scene.block_yaw_rad}" rgba="{stand} 1"/>
    {"".join(_distractor_xml(each) for each in scene.distractors)}
    {"".join(_camera_xml(number, each) for number, each in enumerate(scene.cameras))}
    <body name="block" pos="{x} {y} {z + 0.0005}" euler="0 0 {scene.block_yaw_rad}"> <freejoint/>
      <geom name="block" type="box" size="{BLOCK_HALF_M} {BLOCK_HALF_M} {BLOCK_HALF_M}" mass="0.06"
        rgba="0.85 0.08 0.06 1"/>
    </body>
    {_ARM}
  </worldbody>
  <actuator>
    <position joint="turn" kp="600" kv="60"/> <position joint="shoulder" kp="1200" kv="120"/>
    <position joint="elbow" kp="900" kv="90"/> <position joint="bend" kp="400" kv="40"/>
    <position joint="roll" kp="200" kv="20"/>
    <position joint="left" kp="400" kv="30" forcerange="-18 18"/>
    <position joint="right" kp="400" kv="30" forcerange="-18 18"/>
  </actuator>
</mujoco>"""


_FINGER = 'type="box" size="0.011 0.006 0.04" mass="0.05" rgba="0.15 0.15 0.17 1" friction="2 0.05 0.001"'
# Only the gripper touches things; the links are drawn. All are held against gravity.
_ARM = f"""
    <geom class="seen" type="cylinder" size="0.07 0.03" pos="0 0 0.03"/>
    <body gravcomp="1"> <joint name="turn" axis="0 0 1"/>
      <geom class="seen" type="cylinder" size="0.045 0.1" pos="0 0 0.15" mass="1" rgba="0.2 0.35 0.6 1"/>
      <body pos="0 0 {SHOULDER_HEIGHT_M}" gravcomp="1"> <joint name="shoulder" axis="0 1 0"/>
        <geom class="seen" type="capsule" fromto="0 0 0 0 0 {UPPER_ARM_M}" size="0.035" mass="0.8"/>
        <body pos="0 0 {UPPER_ARM_M}" gravcomp="1"> <joint name="elbow" axis="0 1 0"/>
          <geom class="seen" type="capsule" fromto="0 0 0 0 0 {FOREARM_M}" size="0.03" mass="0.6"
            rgba="0.2 0.35 0.6 1"/>
          <body pos="0 0 {FOREARM_M}" gravcomp="1"> <joint name="bend" axis="0 1 0"/>
            <geom class="seen" type="capsule" fromto="0 0 0 0 0 0.05" size="0.026" mass="0.2"/>
            <body name="hand" gravcomp="1"> <joint name="roll" axis="0 0 1"/>
              <geom name="palm" type="box" size="0.02 0.055 0.015" pos="0 0 0.07" mass="0.2" rgba="0.3 0.3 0.33 1"/>
              <site name="tool" pos="0 0 {HAND_M}" size="0.004" rgba="0 0 0 0"/>
              <camera name="wrist" pos="-0.075 0 0.06" fovy="{math.degrees(FOVY_RAD)}"
                xyaxes="0 1 0 {math.cos(_WRIST_TILT_RAD)} 0 {-math.sin(_WRIST_TILT_RAD)}"/>
              <body pos="0 0.006 {HAND_M - 0.03}" gravcomp="1">
                <joint name="left" type="slide" axis="0 1 0" limited="true" range="0 {OPEN_M}" damping="8"/>
                <geom name="left" {_FINGER}/>
              </body>
              <body pos="0 -0.006 {HAND_M - 0.03}" gravcomp="1">
                <joint name="right" type="slide" axis="0 -1 0" limited="true" range="0 {OPEN_M}" damping="8"/>
                <geom name="right" {_FINGER}/>
              </body>
            </body>
          </body>
        </body>
      </body>
    </body>"""


def _distractors(generator: np.random.Generator, block_xy_m: tuple[float, float]) -> tuple[Distractor, ...]:
    """Up to seven, apart from each other, from the arm and from where the hand goes down."""
    placed: list[Distractor] = []
    wanted = int(generator.integers(3, 8))
    for _ in range(_TRIES):
        if len(placed) == wanted:
            break
        shape = str(generator.choice(["box", "cylinder", "ellipsoid"]))
        half_x, half_y, half_z = generator.uniform((0.015, 0.015, 0.015), (0.045, 0.045, 0.06)).tolist()
        x, y = generator.uniform((0.1, -0.5), (0.8, 0.5)).tolist()
        others = [(block_xy_m[0], block_xy_m[1], 0.1), *((d.centre_m[0], d.centre_m[1], 0.07) for d in placed)]
        apart = all(math.hypot(x - other_x, y - other_y) > 0.065 + radius for other_x, other_y, radius in others)
        if apart and math.hypot(x, y) > _NEAR_BASE_M:
            half_y = half_x if shape == "cylinder" else half_y
            yaw_rad = float(generator.uniform(0.0, math.pi))
            colour = _never_red(generator)
            placed.append(Distractor(shape, (x, y, half_z), (half_x, half_y, half_z), yaw_rad, colour))
    return tuple(placed)


def _muted(generator: np.random.Generator) -> Colour:
    hue, saturation, value = generator.uniform((0.0, 0.0, 0.3), (1.0, 0.3, 0.9)).tolist()
    return colorsys.hsv_to_rgb(hue, saturation, value)


def _never_red(generator: np.random.Generator) -> Colour:
    hue, saturation, value = generator.uniform((0.1, 0.2, 0.3), (0.8, 0.8, 0.9)).tolist()
    return colorsys.hsv_to_rgb(hue, saturation, value)


def _numbers(values: tuple[float, ...]) -> str:
    return " ".join(f"{value:.6f}" for value in values)


def _distractor_xml(distractor: Distractor) -> str:
    half = distractor.half_extents_m
    size = (half[0], half[2]) if distractor.shape == "cylinder" else half
    return (
        f'<geom type="{distractor.shape}" size="{_numbers(size)}" pos="{_numbers(distractor.centre_m)}" '
        f'euler="0 0 {distractor.yaw_rad:.6f}" rgba="{_numbers(distractor.colour)} 1"/>\n    '
    )


def _camera_xml(number: int, camera: Camera) -> str:
    right, up = camera.rotation[:, 0], -camera.rotation[:, 1]
    axes = _numbers((*right.tolist(), *up.tolist()))
    place = " ".join(f"{value:.9f}" for value in camera.position_m)
    # MuJoCo takes the field of view in degrees, whatever the compiler's unit of angles.
    return (
        f'<camera name="table{number}" pos="{place}" xyaxes="{axes}" fovy="{math.degrees(camera.fovy_rad):.9f}"/>\n    '
    )
