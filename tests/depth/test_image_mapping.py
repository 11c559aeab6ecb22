"""Pixels, intrinsics and depth between a camera and its tower, checked against the preprocessors themselves."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import open_clip.transform
import pytest
import torch
import torch.nn.functional as F
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from spaceclip_plugin.depth.camera import Intrinsics
from spaceclip_plugin.depth.image_mapping import ImageMapping
from spaceclip_plugin.errors import ConfigError

SIDE = 28
STATISTICS = {"image_mean": [0.0] * 3, "image_std": [1.0] * 3}
SIZES = [(48, 64), (64, 48), (51, 77), (48, 65), (80, 51), (60, 60), (37, 120)]
EDGE_PX = 3  # resampling looks beyond the image near its borders


def ramp(hw: tuple[int, int]) -> tuple[Image.Image, int]:
    """Red rises to the right and green downwards, by so many levels a pixel; blue is full."""
    height, width = hw
    step = 255 // (max(hw) - 1)
    pixels = np.full((height, width, 3), 255, dtype=np.uint8)
    pixels[..., 0] = np.arange(width) * step
    pixels[..., 1] = (np.arange(height) * step)[:, None]
    return Image.fromarray(pixels), step


def centres(hw: tuple[int, int]) -> Tensor:
    """(H, W, 2) u and v of every pixel's centre."""
    v, u = torch.meshgrid(torch.arange(hw[0]) + 0.5, torch.arange(hw[1]) + 0.5, indexing="ij")
    return torch.stack([u, v], dim=-1).double()


def check_ramp(mapping: ImageMapping, tower_image: Tensor, step: int) -> None:
    """The tower's image (3, h, w) of a ramp shows, at every pixel, the camera pixel that the mapping says."""
    assert tuple(tower_image.shape[1:]) == mapping.tower_hw
    shown = mapping.valid_tower_pixels()
    blue = tower_image[2]  # none in the padding; a pixel that is half padding may count as either
    assert ((blue > 0.5) == shown)[(blue - 0.5).abs() > 0.02].all()
    inside = -F.max_pool2d(-F.pad(shown[None].float(), [EDGE_PX] * 4, mode="replicate"), 2 * EDGE_PX + 1, 1)[0] > 0
    read = tower_image[:2].permute(1, 2, 0).double() * (255 / step) + 0.5
    said = mapping.camera_pixels(centres(mapping.tower_hw))
    seen = (said - torch.tensor([mapping.camera_hw[1], mapping.camera_hw[0]])).abs()
    border_px = EDGE_PX / min(mapping.scale_x, mapping.scale_y)
    inside &= (torch.minimum(said, seen) > border_px).all(dim=-1)
    error_px = (read - said)[inside]
    assert len(error_px) > 30
    assert error_px.mean(dim=0).abs().max() < 0.12
    assert error_px.abs().max() < 0.7  # eight bits: half a level is 0.25 pixels here, at most


class TestPreprocessors:
    """The mapping of every preprocessor that is installed, from what comes out of it."""

    @pytest.mark.parametrize("hw", SIZES)
    def test_clip_resizes_the_shorter_side_and_crops(self, hw: tuple[int, int]) -> None:
        size = {"size": {"shortest_edge": SIDE}, "crop_size": {"height": SIDE, "width": SIDE}}
        image, step = ramp(hw)
        pixels = transformers.CLIPImageProcessor(**size, **STATISTICS)(image, return_tensors="pt")["pixel_values"]
        check_ramp(ImageMapping.centre_cropped(hw, (SIDE, SIDE)), pixels[0], step)

    def test_clip_with_a_shorter_side_longer_than_the_crop(self) -> None:
        size = {"size": {"shortest_edge": 33}, "crop_size": {"height": SIDE, "width": SIDE}}
        image, step = ramp((51, 77))
        pixels = transformers.CLIPImageProcessor(**size, **STATISTICS)(image, return_tensors="pt")["pixel_values"]
        check_ramp(ImageMapping.centre_cropped((51, 77), (SIDE, SIDE), resize_short=33), pixels[0], step)

    @pytest.mark.parametrize("hw", SIZES)
    def test_open_clip_rounds_half_a_margin_to_even(self, hw: tuple[int, int]) -> None:
        image, step = ramp(hw)
        transform = open_clip.transform.image_transform(SIDE, is_train=False, mean=(0.0,) * 3, std=(1.0,) * 3)
        mapping = ImageMapping.centre_cropped(hw, (SIDE, SIDE), rounding="half-even")
        check_ramp(mapping, transform(image), step)

    def test_the_two_roundings_differ_where_the_margin_is_odd(self) -> None:
        mappings = [ImageMapping.centre_cropped((28, 39), (28, 28), rounding=way) for way in ("down", "half-even")]
        assert [mapping.offset_x for mapping in mappings] == [-5.0, -6.0]

    @pytest.mark.parametrize("hw", SIZES)
    def test_siglip_stretches(self, hw: tuple[int, int]) -> None:
        image, step = ramp(hw)
        processor = transformers.SiglipImageProcessor(size={"height": SIDE, "width": 42}, **STATISTICS)
        pixels = processor(image, return_tensors="pt")["pixel_values"]
        check_ramp(ImageMapping.stretched(hw, (SIDE, 42)), pixels[0], step)

    @pytest.mark.parametrize("hw", SIZES)
    def test_llava_next_pads_and_tiles(self, hw: tuple[int, int]) -> None:
        grid_hw = (2 * SIDE, 3 * SIDE)
        processor = transformers.LlavaNextImageProcessor(
            size={"shortest_edge": SIDE},
            crop_size={"height": SIDE, "width": SIDE},
            image_grid_pinpoints=[list(grid_hw)],
            **STATISTICS,
        )
        whole = ImageMapping.letterboxed(hw, grid_hw, rounding="up")
        top, left, bottom, right = whole.shown
        if transformers.__version__ < "5" and (bottom - top - grid_hw[0]) % 2 + (right - left - grid_hw[1]) % 2:
            pytest.skip("transformers before 5 may lose the odd pixel of padding, and with it the last tile's width")
        image, step = ramp(hw)
        thumbnail, *tiles = processor(image, return_tensors="pt")["pixel_values"][0]
        check_ramp(ImageMapping.stretched(hw, (SIDE, SIDE)), thumbnail, step)
        check_tiles(whole, tiles, step)

    @pytest.mark.parametrize("hw", SIZES)
    def test_llava_pads_to_a_square_first(self, hw: tuple[int, int]) -> None:
        kind = getattr(transformers, "LlavaImageProcessor", None)
        if kind is None:
            pytest.skip("this transformers has no LlavaImageProcessor")
        size = {"size": {"height": SIDE, "width": SIDE}, "crop_size": {"height": SIDE, "width": SIDE}}
        image, step = ramp(hw)
        square = (max(hw), max(hw))
        mapping = ImageMapping.letterboxed(hw, square).compose(ImageMapping.stretched(square, (SIDE, SIDE)))
        check_ramp(
            mapping, kind(do_pad=True, **size, **STATISTICS)(image, return_tensors="pt")["pixel_values"][0], step
        )

    @pytest.mark.parametrize("name", ["Idefics3ImageProcessor", "SmolVLMImageProcessor"])
    def test_idefics_stretches_and_tiles(self, name: str) -> None:
        kind = getattr(transformers, name, None)
        if kind is None:
            pytest.skip(f"this transformers has no {name}")
        processor = kind(size={"longest_edge": 4 * SIDE}, max_image_size={"longest_edge": SIDE}, **STATISTICS)
        image, step = ramp((51, 77))
        *tiles, thumbnail = processor([image], return_tensors="pt")["pixel_values"][0]
        check_tiles(ImageMapping.stretched((51, 77), (3 * SIDE, 4 * SIDE)), tiles, step)
        check_ramp(ImageMapping.stretched((51, 77), (SIDE, SIDE)), thumbnail, step)

    def test_internvl_stretches_and_tiles(self) -> None:
        kind = getattr(transformers, "GotOcr2ImageProcessor", None)
        if kind is None:
            pytest.skip("this transformers has no GotOcr2ImageProcessor")
        processor = kind(size={"height": SIDE, "width": SIDE}, crop_to_patches=True, max_patches=6, **STATISTICS)
        image, step = ramp((51, 77))
        *tiles, thumbnail = processor(image, return_tensors="pt")["pixel_values"]
        if not tiles:
            pytest.skip("the GotOcr2ImageProcessor of this transformers does not tile by its own settings")
        check_tiles(ImageMapping.stretched((51, 77), (2 * SIDE, 3 * SIDE)), tiles, step)
        check_ramp(ImageMapping.stretched((51, 77), (SIDE, SIDE)), thumbnail, step)


def check_tiles(whole: ImageMapping, tiles: Sequence[Tensor], step: int) -> None:
    """Put together, the tiles show what the whole mapping says; each shows where its own says it lies."""
    mappings = whole.tiles((SIDE, SIDE))
    assert len(mappings) == len(tiles)
    columns = whole.tower_hw[1] // SIDE
    rows = [torch.cat(list(tiles[i : i + columns]), dim=2) for i in range(0, len(tiles), columns)]
    check_ramp(whole, torch.cat(rows, dim=1), step)
    for index, (mapping, tile) in enumerate(zip(mappings, tiles, strict=True)):
        assert torch.equal(tile[2] > 0.5, mapping.valid_tower_pixels())  # no pixel is half padding
        corner = torch.tensor([index % columns * SIDE, index // columns * SIDE])
        inside = mapping.camera_pixels(centres((SIDE, SIDE)))
        torch.testing.assert_close(inside, whole.camera_pixels(centres((SIDE, SIDE)) + corner))


class TestLeRobotSizes:
    """Where LeRobot 0.6.1 puts the image, as its functions did it; `tests/lerobot` runs them."""

    @pytest.mark.parametrize(
        ("camera_hw", "tower_hw", "shown"),
        [
            ((480, 640), (224, 224), (28, 0, 196, 224)),
            ((360, 540), (224, 224), (37, 0, 186, 224)),
            ((540, 360), (224, 224), (0, 37, 224, 186)),
            ((720, 1280), (512, 512), (112, 0, 400, 512)),
            ((100, 200), (224, 224), (56, 0, 168, 224)),
            ((480, 848), (224, 224), (49, 0, 175, 224)),  # 126.8 rows
            ((224, 224), (224, 224), (0, 0, 224, 224)),
        ],
    )
    def test_centred(
        self, camera_hw: tuple[int, int], tower_hw: tuple[int, int], shown: tuple[int, int, int, int]
    ) -> None:
        mapping = ImageMapping.letterboxed(camera_hw, tower_hw)
        assert mapping.shown == shown
        assert (mapping.offset_y, mapping.offset_x) == shown[:2]
        rows, columns = shown[2] - shown[0], shown[3] - shown[1]
        assert (mapping.scale_y, mapping.scale_x) == (rows / camera_hw[0], columns / camera_hw[1])

    def test_left_and_top(self) -> None:
        assert ImageMapping.letterboxed((480, 640), (512, 512), anchor="bottom-right").shown == (128, 0, 512, 512)
        assert ImageMapping.letterboxed((640, 480), (512, 512), anchor="bottom-right").shown == (0, 128, 512, 512)

    def test_right_and_bottom(self) -> None:
        mapping = ImageMapping.letterboxed((480, 640), (512, 512), anchor="top-left")
        assert (mapping.shown, mapping.offset_x, mapping.offset_y) == ((0, 0, 384, 512), 0, 0)


sides = st.integers(2, 300)
sizes = st.tuples(sides, sides)


@st.composite
def mappings(draw: st.DrawFn) -> ImageMapping:
    camera_hw, tower_hw = draw(sizes), draw(sizes)
    kind = draw(st.sampled_from(["stretched", "cropped", "centre", "bottom-right", "top-left", "twice"]))
    if kind == "stretched":
        return ImageMapping.stretched(camera_hw, tower_hw)
    if kind == "cropped":
        side = draw(sides)
        return ImageMapping.centre_cropped(camera_hw, (side, side))
    if min(camera_hw) * 100 < max(camera_hw) or min(tower_hw) * 100 < max(tower_hw):
        return ImageMapping.stretched(camera_hw, tower_hw)
    if kind == "twice":
        between = ImageMapping.letterboxed(camera_hw, tower_hw, rounding="up")
        return between.compose(ImageMapping.centre_cropped(tower_hw, (20, 20)))
    return ImageMapping.letterboxed(camera_hw, tower_hw, rounding="up", anchor=kind)  # type: ignore[arg-type]


class TestProperties:
    @given(mapping=mappings(), u=st.floats(-500, 500), v=st.floats(-500, 500))
    @settings(max_examples=100, deadline=None)
    def test_there_and_back_is_the_same_pixel(self, mapping: ImageMapping, u: float, v: float) -> None:
        uv = torch.tensor([u, v], dtype=torch.float64)
        torch.testing.assert_close(mapping.camera_pixels(mapping.tower_pixels(uv)), uv, atol=1e-6, rtol=1e-9)
        torch.testing.assert_close(mapping.tower_pixels(mapping.camera_pixels(uv)), uv, atol=1e-6, rtol=1e-9)

    @given(mapping=mappings(), x=st.floats(-2, 2), y=st.floats(-2, 2), z=st.floats(0.1, 9))
    @settings(max_examples=100, deadline=None)
    def test_a_point_projects_to_the_mapped_pixel(self, mapping: ImageMapping, x: float, y: float, z: float) -> None:
        camera = Intrinsics(210.0, 190.0, 31.0, 47.0, mapping.camera_hw)
        seen, shown = (project(k, x, y, z) for k in (camera, mapping.to_tower(camera)))
        torch.testing.assert_close(mapping.tower_pixels(seen), shown, atol=1e-6, rtol=1e-9)
        again = mapping.to_camera(mapping.to_tower(camera))
        assert again.image_hw == camera.image_hw
        torch.testing.assert_close(again.matrix(), camera.matrix(), atol=1e-6, rtol=1e-9)

    @given(mapping=mappings())
    @settings(max_examples=100, deadline=None)
    def test_what_is_shown_lies_in_the_camera_image(self, mapping: ImageMapping) -> None:
        uv = mapping.camera_pixels(centres(mapping.tower_hw))
        wide = torch.tensor([mapping.camera_hw[1], mapping.camera_hw[0]], dtype=torch.float64)
        surely, perhaps = (((uv > -e) & (uv < wide + e)).all(dim=-1) for e in (-1e-6, 1e-6))  # a centre on the border
        shown = mapping.valid_tower_pixels()
        assert not (surely & ~shown).any()
        assert not (shown & ~perhaps).any()


def project(camera: Intrinsics, x: float, y: float, z: float) -> Tensor:
    uvw = camera.matrix() @ torch.tensor([x, y, z], dtype=torch.float64)
    return uvw[:2] / uvw[2]


class TestIntrinsics:
    CAMERA = Intrinsics(500.0, 510.0, 320.0, 250.0, (480, 640))
    PADDED = ImageMapping.letterboxed((480, 640), (224, 224))

    def test_by_hand(self) -> None:
        # 480x640 becomes 168x224 (a factor of 0.35) with 28 rows above.
        assert self.PADDED.to_tower(self.CAMERA) == Intrinsics(175.0, 178.5, 112.0, 115.5, (224, 224))

    def test_of_a_larger_image_they_may_be_a_pixel_of_that_image_off(self) -> None:
        for columns in (1279, 1280, 1281):
            self.PADDED.to_tower(Intrinsics(1000.0, 1020.0, 640.0, 500.0, (960, columns)))
        with pytest.raises(ConfigError, match="960x1282"):
            self.PADDED.to_tower(Intrinsics(1000.0, 1020.0, 640.0, 500.0, (960, 1282)))

    def test_any_resolution_of_the_camera_will_do(self) -> None:
        half = self.CAMERA.resized((240, 320))
        torch.testing.assert_close(self.PADDED.to_tower(half).matrix(), self.PADDED.to_tower(self.CAMERA).matrix())

    def test_a_resolution_rounded_to_whole_pixels_will_do(self) -> None:
        third = self.CAMERA.resized((100, 133))
        torch.testing.assert_close(self.PADDED.to_tower(third).matrix(), self.PADDED.to_tower(self.CAMERA).matrix())

    @pytest.mark.parametrize("hw", [(224, 224), (640, 480), (480, 720), (240, 318)])
    def test_of_another_image(self, hw: tuple[int, int]) -> None:
        other = dataclasses.replace(self.CAMERA, image_hw=hw)
        with pytest.raises(ConfigError, match=rf"{hw[0]}x{hw[1]}.* camera's image 480x640"):
            self.PADDED.to_tower(other)

    def test_of_another_tower_image(self) -> None:
        with pytest.raises(ConfigError, match=r"480x640.* tower's image 224x224"):
            self.PADDED.to_camera(self.CAMERA)


class TestRefusals:
    @pytest.mark.parametrize("hw", [(0, 5), (5, -1), (5,), (5.0, 5.0), [5, 5]])
    def test_sizes(self, hw: tuple[int, int]) -> None:
        for make in (ImageMapping.stretched, ImageMapping.centre_cropped, ImageMapping.letterboxed):
            with pytest.raises(ConfigError, match="camera_hw"):
                make(hw, (5, 5))
            with pytest.raises(ConfigError, match="tower_hw"):
                make((5, 5), hw)

    def test_a_crop_larger_than_the_image(self) -> None:
        with pytest.raises(ConfigError, match=r"resized to 20x26 .*crop 28x28 .*resize_short"):
            ImageMapping.centre_cropped((48, 64), (28, 28), resize_short=20)

    def test_unknown_ways(self) -> None:
        with pytest.raises(ConfigError, match="anchor must be one of centre, bottom-right, top-left"):
            ImageMapping.letterboxed((4, 6), (8, 8), anchor="center")  # type: ignore[arg-type]
        with pytest.raises(ConfigError, match="rounding"):
            ImageMapping.letterboxed((4, 6), (8, 8), rounding="half-even")  # type: ignore[arg-type]
        with pytest.raises(ConfigError, match="rounding"):
            ImageMapping.centre_cropped((4, 6), (4, 4), rounding="up")  # type: ignore[arg-type]
        with pytest.raises(ConfigError, match="resize_short"):
            ImageMapping.centre_cropped((4, 6), (4, 4), resize_short=0)

    def test_an_image_too_narrow_to_be_letterboxed(self) -> None:
        with pytest.raises(ConfigError, match="no pixel left"):
            ImageMapping.letterboxed((1, 900), (224, 224))

    def test_tiles_that_do_not_fill(self) -> None:
        with pytest.raises(ConfigError, match="whole tiles 28x30"):
            ImageMapping.stretched((9, 9), (56, 56)).tiles((28, 30))

    def test_mappings_that_do_not_follow(self) -> None:
        with pytest.raises(ConfigError, match=r"to 8x8 .*from 9x9"):
            ImageMapping.stretched((4, 4), (8, 8)).compose(ImageMapping.stretched((9, 9), (8, 8)))

    @pytest.mark.parametrize("uv", [torch.ones(3), torch.ones(4, 2, dtype=torch.int64), [0.5, 0.5], torch.tensor(1.0)])
    def test_pixels(self, uv: Tensor) -> None:
        with pytest.raises(ConfigError, match="pixels are"):
            ImageMapping.stretched((4, 4), (8, 8)).tower_pixels(uv)

    @pytest.mark.parametrize(
        "changed",
        [{"scale_x": 0.0}, {"scale_y": -1.0}, {"offset_x": math.nan}, {"offset_y": math.inf}],
    )
    def test_numbers(self, changed: dict[str, float]) -> None:
        with pytest.raises(ConfigError, match="positive scales"):
            dataclasses.replace(ImageMapping.stretched((4, 4), (8, 8)), **changed)

    @pytest.mark.parametrize("shown", [(-1, 0, 8, 8), (0, 0, 9, 8), (5, 0, 4, 8), (0, 0, 8, math.nan)])
    def test_shown(self, shown: tuple[float, float, float, float]) -> None:
        with pytest.raises(ConfigError, match="shown is"):
            dataclasses.replace(ImageMapping.stretched((4, 4), (8, 8)), shown=shown)
