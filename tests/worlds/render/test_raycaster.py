from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
import torch

from spaceclip_plugin.depth.camera import back_project
from spaceclip_plugin.errors import ConfigError
from spaceclip_worlds.render import intersection
from spaceclip_worlds.render.raycaster import Rendering, render
from spaceclip_worlds.render.scene import (
    Camera,
    Light,
    Material,
    Primitive,
    Room,
    Scene,
    Shape,
    Vector,
    rotation_about,
)
from spaceclip_worlds.render.tabletop import random_tabletop
from spaceclip_worlds.render.textures import TEXTURE_NAMES, TEXTURE_VARIANTS, TextureBank, texture_bank

FloatArray = npt.NDArray[np.float64]

GREY = Material((0.5, 0.5, 0.5), (0.6, 0.6, 0.6))
ROOM = Room((-20.0, -20.0, 0.0), (3.0, 20.0, 20.0), floor=GREY, walls=GREY, ceiling=GREY)
# At height 5, looking along world x: camera right is world -y, camera down is world -z.
CAMERA = Camera.looking_at((0.0, 0.0, 5.0), (1.0, 0.0, 5.0), fovy_rad=math.radians(40.0))
LIGHT = Light((0.5, 3.0, 9.0))
SPHERE = Primitive(Shape.ELLIPSOID, (1.5, 0.1, 5.05), (0.3, 0.3, 0.3), GREY)


def scene_of(*primitives: Primitive, camera: Camera = CAMERA, light: Light = LIGHT) -> Scene:
    return Scene(ROOM, camera, light, primitives)


def world_points(scene: Scene, rendering: Rendering) -> FloatArray:
    """(H, W, 3) where the depth map says the surfaces are."""
    depth = torch.from_numpy(rendering.depth_m).to(torch.float64)[None]
    points = back_project(depth, rendering.intrinsics)[0].numpy()
    return points @ scene.camera.rotation.T + np.array(scene.camera.position_m)


def world_rays(scene: Scene, rendering: Rendering) -> FloatArray:
    """(H, W, 3) through pixel centres, of depth 1, in float64."""
    unit_depth = replace(rendering, depth_m=np.ones_like(rendering.depth_m))
    return world_points(scene, unit_depth) - np.array(scene.camera.position_m)


def unit_coordinates(primitive: Primitive, points: FloatArray) -> FloatArray:
    offset = points - np.array(primitive.centre_m)
    coordinates: FloatArray = offset @ primitive.rotation / np.array(primitive.half_extents_m)
    return coordinates


def surface_level(primitive: Primitive, points: FloatArray) -> FloatArray:
    """1 on the surface of a primitive, less inside, more outside."""
    x, y, z = np.moveaxis(np.abs(unit_coordinates(primitive, points)), -1, 0)
    if primitive.shape is Shape.BOX:
        return np.maximum(np.maximum(x, y), z)
    if primitive.shape is Shape.CYLINDER:
        return np.maximum(np.hypot(x, y), z)
    level: FloatArray = np.sqrt(x**2 + y**2 + z**2)
    return level


def centre_depth(*primitives: Primitive) -> float:
    """Depth along the optical axis itself: the middle of an odd number of pixels."""
    return float(render(scene_of(*primitives), (33, 33)).depth_m[16, 16])


@pytest.mark.parametrize("image_hw", [(32, 32), (17, 40), (1, 1)])
def test_a_fronto_parallel_wall_has_one_depth(image_hw: tuple[int, int]) -> None:
    rendering = render(scene_of(), image_hw)
    assert rendering.image.shape == (*image_hw, 3)
    assert rendering.image.dtype == np.uint8
    assert rendering.depth_m.dtype == np.float32
    assert rendering.intrinsics.image_hw == image_hw
    assert (rendering.primitive == -1).all()
    np.testing.assert_allclose(rendering.depth_m, 3.0, rtol=1e-5)


def test_a_tilted_plane_follows_its_equation() -> None:
    rotation = rotation_about((0.0, 1.0, 0.0), math.radians(35.0)) @ rotation_about((0.0, 0.0, 1.0), 0.3)
    plate = Primitive(Shape.BOX, (2.0, 0.0, 5.0), (0.05, 6.0, 6.0), GREY, rotation)
    scene = scene_of(plate)
    rendering = render(scene, (40, 30))
    normal = -rotation[:, 0]
    point = np.array(plate.centre_m) + 0.05 * normal
    expected = normal @ (point - np.array(CAMERA.position_m)) / (world_rays(scene, rendering) @ normal)
    on_plate = rendering.primitive == 0
    assert on_plate.mean() > 0.5
    np.testing.assert_allclose(rendering.depth_m[on_plate], expected[on_plate], rtol=1e-5)


def test_a_sphere_follows_the_quadratic() -> None:
    scene = scene_of(SPHERE)
    rendering = render(scene, (64, 64))
    rays = world_rays(scene, rendering)
    to_centre = np.array(SPHERE.centre_m) - np.array(CAMERA.position_m)
    square, along = (rays**2).sum(-1), rays @ to_centre
    discriminant = along**2 - square * (to_centre @ to_centre - 0.3**2)
    expected = (along - np.sqrt(np.maximum(discriminant, 0.0))) / square
    on_sphere = rendering.primitive == 0
    np.testing.assert_array_equal(on_sphere, discriminant > 0.0)
    # Float32 cannot tell a grazing ray's depth to five digits: there, depth depends on the square root of the error.
    clear = discriminant > 1e-3
    np.testing.assert_allclose(rendering.depth_m[clear], expected[clear], rtol=1e-5)
    np.testing.assert_allclose(rendering.depth_m[on_sphere], expected[on_sphere], rtol=1e-4)


def test_a_small_far_sphere_keeps_its_digits() -> None:
    ball = Primitive(Shape.ELLIPSOID, (2.9, 0.0, 5.0), (0.01, 0.01, 0.01), GREY)
    assert centre_depth(ball) == pytest.approx(2.89, rel=1e-6)


def test_a_corner_of_a_box_points_at_the_camera() -> None:
    half = 0.2
    towards_camera = np.array([-1.0, 0.0, 0.0])
    diagonal = np.ones(3) / math.sqrt(3.0)
    axis = np.cross(diagonal, towards_camera)
    angle = math.acos(float(diagonal @ towards_camera))
    x, y, z = (axis / np.linalg.norm(axis)).tolist()
    cube = Primitive(Shape.BOX, (2.0, 0.0, 5.0), (half, half, half), GREY, rotation_about((x, y, z), angle))
    assert centre_depth(cube) == pytest.approx(2.0 - math.sqrt(3.0) * half, rel=1e-5)


def test_a_cylinder_shows_its_side_or_its_cap() -> None:
    standing = Primitive(Shape.CYLINDER, (2.0, 0.0, 5.0), (0.2, 0.2, 0.5), GREY)
    towards_camera = rotation_about((0.0, 1.0, 0.0), 0.5 * math.pi)
    lying = replace(standing, rotation=towards_camera)
    assert centre_depth(standing) == pytest.approx(1.8, rel=1e-5)
    assert centre_depth(lying) == pytest.approx(1.5, rel=1e-5)
    cap = render(scene_of(lying), (64, 64))
    np.testing.assert_allclose(cap.depth_m[cap.primitive == 0], 1.5, rtol=1e-5)


def test_the_side_of_a_cylinder_follows_its_circle() -> None:
    scene = scene_of(Primitive(Shape.CYLINDER, (2.0, 0.0, 5.0), (0.25, 0.25, 4.0), GREY))
    rendering = render(scene, (9, 101))
    slope = world_rays(scene, rendering)[..., 1]
    # |(t - 2, t * slope)| = 0.25
    discriminant = 4.0 - (1.0 + slope**2) * (4.0 - 0.25**2)
    clear = discriminant > 1e-2
    expected = (2.0 - np.sqrt(discriminant[clear])) / (1.0 + slope[clear] ** 2)
    np.testing.assert_allclose(rendering.depth_m[clear], expected, rtol=1e-5)


@pytest.mark.parametrize("seed", range(5))
def test_every_pixel_lies_on_the_primitive_it_names(seed: int) -> None:
    scene = random_tabletop(np.random.default_rng(seed))
    rendering = render(scene, (96, 96))
    points = world_points(scene, rendering)
    for index, primitive in enumerate(scene.primitives):
        mine = points[rendering.primitive == index]
        distance = (surface_level(primitive, mine) - 1.0) * min(primitive.half_extents_m)
        np.testing.assert_allclose(distance, 0.0, atol=1e-5)
    room = points[rendering.primitive == -1]
    to_wall = np.minimum(room - np.array(scene.room.low_m), np.array(scene.room.high_m) - room).min(-1)
    np.testing.assert_allclose(to_wall, 0.0, atol=1e-5)


def test_the_top_of_a_table_is_a_plane() -> None:
    scene = random_tabletop(np.random.default_rng(0))
    rendering = render(scene, (96, 96))
    top = scene.primitives[0]
    top_m = top.centre_m[2] + top.half_extents_m[2]
    height = world_points(scene, rendering)[rendering.primitive == 0][:, 2]
    on_top = height > top_m - 1e-3
    assert on_top.mean() > 0.8
    np.testing.assert_allclose(height[on_top], top_m, atol=1e-5)


def test_culling_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    scenes = [random_tabletop(np.random.default_rng(seed)) for seed in range(4)]
    telescope = Camera.looking_at((-18.0, 0.0, 5.0), (2.0, 0.0, 5.0), fovy_rad=1e-3)
    die = Primitive(Shape.BOX, (2.0, 0.0, 5.0), (0.004, 0.004, 0.004), GREY, rotation_about((1.0, 0.0, 0.0), 0.7))
    scenes.append(scene_of(die, camera=telescope))
    culled = [render(scene, (64, 64)) for scene in scenes]

    def keep_all(solids: intersection.Solids, origin_m: Vector, directions: torch.Tensor) -> torch.Tensor:
        return torch.ones(len(solids.round_axes), directions.shape[1], dtype=torch.bool)

    monkeypatch.setattr(intersection, "_rays_near_spheres", keep_all)
    for scene, fast in zip(scenes, culled, strict=True):
        slow = render(scene, (64, 64))
        np.testing.assert_array_equal(fast.primitive, slow.primitive)
        np.testing.assert_allclose(fast.depth_m, slow.depth_m, rtol=1e-6)
        # The last bit of a product depends on how many rays it is taken over.
        assert np.abs(fast.image.astype(int) - slow.image).max() <= 1


def test_shadows_only_darken() -> None:
    for seed in range(4):
        scene = random_tabletop(np.random.default_rng(seed))
        shadowed, plain = render(scene, (64, 64)), render(scene, (64, 64), shadows=False)
        assert (shadowed.image <= plain.image).all()
        assert (shadowed.image < plain.image).any()
        np.testing.assert_array_equal(shadowed.depth_m, plain.depth_m)


def test_the_shadow_of_a_ball_is_the_disc_it_hides_from_the_lamp() -> None:
    lamp, height, radius = 4.0, 1.0, 0.2
    ball = Primitive(Shape.ELLIPSOID, (0.0, 0.0, height), (radius, radius, radius), GREY)
    camera = Camera.looking_at((-2.0, 0.0, 1.5), (0.0, 0.0, 0.0), fovy_rad=0.8)
    scene = scene_of(ball, camera=camera, light=Light((0.0, 0.0, lamp), (20.0, 20.0, 20.0)))
    shadowed, plain = render(scene, (96, 96)), render(scene, (96, 96), shadows=False)
    dark = (shadowed.image < plain.image).any(-1)
    to_axis = np.hypot(*np.moveaxis(world_points(scene, shadowed)[..., :2], -1, 0))
    disc = lamp * math.tan(math.asin(radius / (lamp - height)))
    floor = shadowed.primitive == -1
    assert dark[floor & (to_axis < disc - 1e-3)].all()
    assert not dark[floor & (to_axis > disc + 1e-3)].any()
    assert dark[floor].sum() > 50
    assert not dark[~floor].any()


def test_faces_towards_the_light_are_brighter() -> None:
    light = Light((0.0, 6.0, 5.0), (10.0, 10.0, 10.0), ambient=0.1)
    image = render(scene_of(SPHERE, light=light), (64, 64)).image.astype(float).mean(-1)
    where = render(scene_of(SPHERE), (64, 64)).primitive == 0
    columns = np.arange(64)[None].repeat(64, 0)
    left, right = image[where & (columns < 26)].mean(), image[where & (columns > 32)].mean()
    # World +y is on the left of the picture.
    assert left > 1.5 * right


def test_supersampling_smooths_colour_and_leaves_depth() -> None:
    scene = random_tabletop(np.random.default_rng(1))
    once, twice = render(scene, (48, 64)), render(scene, (48, 64), supersample=2)
    np.testing.assert_array_equal(once.depth_m, twice.depth_m)
    np.testing.assert_array_equal(once.primitive, twice.primitive)
    assert twice.image.shape == (48, 64, 3)
    difference = np.abs(once.image.astype(int) - twice.image)
    assert 0.0 < difference.mean() < 10.0


def test_the_state_of_the_process_changes_neither_result_nor_state() -> None:
    scene = random_tabletop(np.random.default_rng(2))
    before = render(scene, (32, 32))
    state = torch.get_rng_state()
    torch.set_default_dtype(torch.float64)
    try:
        after = render(scene, (32, 32))
    finally:
        torch.set_default_dtype(torch.float32)
    np.testing.assert_array_equal(before.image, after.image)
    np.testing.assert_array_equal(before.depth_m, after.depth_m)
    assert torch.equal(state, torch.get_rng_state())


def test_seen_from_inside_a_primitive_is_invisible() -> None:
    shell = Primitive(Shape.ELLIPSOID, CAMERA.position_m, (0.5, 0.5, 0.5), GREY)
    np.testing.assert_allclose(render(scene_of(shell), (8, 8)).depth_m, 3.0, rtol=1e-5)


def test_roll_turns_the_camera_clockwise() -> None:
    rolled = Camera.looking_at((0.0, 0.0, 5.0), (1.0, 0.0, 5.0), fovy_rad=0.7, roll_rad=0.5 * math.pi)
    # After a quarter turn, the camera's right is what was down: world -z.
    np.testing.assert_allclose(rolled.rotation[:, 0], (0.0, 0.0, -1.0), atol=1e-12)
    assert rolled.depth_of((2.0, 7.0, 1.0)) == pytest.approx(2.0)


@pytest.mark.parametrize("name", TEXTURE_NAMES)
def test_textures_stay_in_range_wrap_and_keep_their_mean(name: str) -> None:
    bank = texture_bank()
    generator = torch.Generator().manual_seed(0)
    uv = torch.rand(2, 4000, generator=generator)
    for variant in range(TEXTURE_VARIANTS):
        texture = torch.full((4000,), TextureBank.index(name, variant))
        fine = bank.sample(texture, uv, footprint=torch.full((4000,), 1e-4))
        wrapped = bank.sample(texture, uv - 3.0, footprint=torch.full((4000,), 1e-4))
        coarse = bank.sample(texture, uv, footprint=torch.full((4000,), 10.0))
        assert 0.0 <= fine.min() <= fine.max() <= 1.0
        assert fine.std() > 0.01
        torch.testing.assert_close(fine, wrapped, atol=0.02, rtol=0.0)
        assert coarse.mean() == pytest.approx(float(fine.mean()), abs=0.03)


def test_pictures_need_a_size() -> None:
    with pytest.raises(ConfigError, match=r"1x1 pixels, got image_hw=\(0, 8\)"):
        render(scene_of(), (0, 8))
    with pytest.raises(ConfigError, match=r"supersample.*got 0"):
        render(scene_of(), (8, 8), supersample=0)


def test_impossible_scenes_are_refused() -> None:
    outside = Camera.looking_at((4.0, 0.0, 5.0), (1.0, 0.0, 5.0), fovy_rad=0.7)
    with pytest.raises(ConfigError, match=r"camera.*outside the room"):
        scene_of(camera=outside)
    with pytest.raises(ConfigError, match=r"light.*outside the room"):
        scene_of(light=Light((0.0, 0.0, -1.0)))
    with pytest.raises(ConfigError, match="upright direction"):
        Camera.looking_at((0.0, 0.0, 5.0), (0.0, 0.0, 1.0), fovy_rad=0.7)
    with pytest.raises(ConfigError, match="fovy_rad"):
        Camera((0.0, 0.0, 5.0), np.eye(3), math.pi)
    with pytest.raises(ConfigError, match="low_m < high_m"):
        Room((0.0, 0.0, 0.0), (1.0, 0.0, 1.0), floor=GREY, walls=GREY, ceiling=GREY)
    with pytest.raises(ConfigError, match="half_extents_m must be positive"):
        Primitive(Shape.BOX, (0.0, 0.0, 0.0), (1.0, 0.0, 1.0), GREY)
    with pytest.raises(ConfigError, match="finite"):
        Primitive(Shape.BOX, (0.0, math.nan, 0.0), (1.0, 1.0, 1.0), GREY)
    with pytest.raises(ConfigError, match="right-handed"):
        Primitive(Shape.BOX, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), GREY, np.diag([1.0, 1.0, -1.0]))
    with pytest.raises(ConfigError, match="3x3"):
        Primitive(Shape.BOX, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), GREY, np.eye(2))
    with pytest.raises(ConfigError, match="not negative"):
        Light((0.0, 0.0, 5.0), ambient=-0.1)


def test_impossible_materials_are_refused() -> None:
    with pytest.raises(ConfigError, match="did you mean 'marble'"):
        replace(GREY, texture="marbel")
    with pytest.raises(ConfigError, match="between 0 and 1"):
        replace(GREY, colour=(0.0, 0.0, 255.0))
    with pytest.raises(ConfigError, match="variants are 0 to 3"):
        replace(GREY, variant=4)
    with pytest.raises(ConfigError, match="tile_m"):
        replace(GREY, tile_m=0.0)
