"""Depth lies where the tower saw it, to a fraction of a pixel; what it never read has none."""

from __future__ import annotations

import dataclasses

import pytest
import timm
import torch
from ramp_world import pixels, places, ramp_head, siglip
from torch import nn

from spaceclip_plugin import DepthHead, DepthMap, Intrinsics, attach_depth_head
from spaceclip_plugin.depth.image_mapping import ImageMapping
from spaceclip_plugin.errors import ConfigError
from spaceclip_plugin.towers.seen_part import SeenPart
from spaceclip_plugin.towers.spec import TowerFeatures

IMAGE, PATCH, READ = 48, 14, 42


def read_ramp(hw: tuple[int, int] | None = None, **options: object) -> DepthMap:
    host = siglip()
    with attach_depth_head(host, ramp_head(host), **options) as depth, torch.no_grad():
        host(pixels((IMAGE, IMAGE)))
        return depth.read(hw)[0]


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "dilation", "side", "grid", "seen"),
    [
        (16, 16, 0, 1, 224, None, None),
        (14, 14, 0, 1, 384, (0.0, 378.0), (0, 378)),
        (16, 16, 0, 1, 90, (0.0, 80.0), (0, 80)),
        (16, 8, 0, 1, 224, (4.0, 220.0), (0, 224)),  # overlapping patches: centres at 8, 16, … 216
        (16, 8, 4, 1, 224, None, None),
        (7, 4, 3, 1, 224, None, None),  # a hierarchical tower's first stage, which strides fill
        (16, 16, 8, 1, 224, (-8.0, 232.0), (0, 224)),  # centres at 0, 16, … 224
        (14, 14, 1, 1, 224, (-1.0, 223.0), (0, 223)),
        (4, 8, 0, 2, 64, (-0.5, 63.5), (0, 63)),  # seven pixels of eight
    ],
)
def test_where_a_convolution_has_its_patches(
    kernel: int,
    stride: int,
    padding: int,
    dilation: int,
    side: int,
    grid: tuple[float, float] | None,
    seen: tuple[int, int] | None,
) -> None:
    convolution = nn.Conv2d(3, 1, kernel, stride=stride, padding=padding, dilation=dilation)
    part = SeenPart.of_convolution(convolution, (side, 2 * side))
    assert SeenPart.grid_of(convolution, (side, 2 * side)) == convolution(torch.zeros(1, 3, side, 2 * side)).shape[2:]
    if grid is None:
        assert part is None
    else:
        assert part is not None
        assert (part.grid[0], part.grid[2], part.seen[0], part.seen[2]) == (*grid, *seen)


def test_what_a_convolution_reads_is_what_its_output_depends_on() -> None:
    convolution = nn.Conv2d(1, 1, 4, stride=8, dilation=2, bias=False)
    image = torch.zeros(1, 1, 64, 61, requires_grad=True)
    nn.init.ones_(convolution.weight)
    convolution(image).sum().backward()
    rows, columns = (image.grad[0, 0].any(dim=dim).nonzero()[-1].item() + 1 for dim in (1, 0))
    part = SeenPart.of_convolution(convolution, (64, 61))
    assert part is not None
    assert part.seen == (0, 0, rows, columns) == (0, 0, 63, 55)


@pytest.mark.parametrize("hw", [None, (480, 640), (96, 96), (37, 29), (20, 16)])
def test_a_ramp_over_the_patches_comes_back_at_their_pixels(hw: tuple[int, int] | None) -> None:
    found = read_ramp(hw)
    rows, columns = hw or (IMAGE, IMAGE)
    v, u = places(IMAGE, rows), places(IMAGE, columns)
    inside = (v < READ)[:, None] & (u < READ)
    assert torch.equal(found.valid[0], inside)
    assert bool((found.depth_m[0][~inside] == 0).all())
    assert bool((found.uncertainty_m[0][~inside] == 0).all())
    for values, expected, place in (
        (found.depth_m[0], (v / PATCH + 10)[:, None].expand(rows, columns), v[:, None]),
        (found.uncertainty_m[0], (u / PATCH + 1).expand(rows, columns), u),
    ):
        between = inside & (place > PATCH / 2 + 1) & (place < READ - PATCH / 2 - 1)  # beyond centres, ramps are flat
        assert between.any()
        torch.testing.assert_close(values[between], expected[between], atol=0.003, rtol=0)  # 0.04 pixels


@pytest.mark.parametrize("hw", [(90, 120), (31, 47), (56, 90)])
def test_odd_and_oblong_images_of_a_refresh(hw: tuple[int, int]) -> None:
    host = timm.create_model(
        "vit_tiny_patch16_224", img_size=hw, patch_size=16, embed_dim=24, depth=2, num_heads=2
    ).eval()
    with attach_depth_head(host, ramp_head(host)) as depth:
        depth.refresh(pixels(hw))
        [found] = depth.read()
    read = tuple(side // 16 * 16 for side in hw)
    assert torch.equal(found.valid[0].nonzero().amax(0) + 1, torch.tensor(read))
    assert int(found.valid.sum()) == read[0] * read[1]
    torch.testing.assert_close(found.uncertainty_m[0, 0, 8:24], (places(hw[1], hw[1])[8:24] / 16 + 1))


def test_a_tower_that_divides_its_image_decodes_as_ever() -> None:
    host = siglip(side=56)
    head = ramp_head(host)
    with attach_depth_head(host, head) as depth, torch.no_grad():
        host(pixels((56, 56)))
        [features] = depth.features()
    assert features.seen is None
    output = head(features, (20, 30))
    assert head.decoder.asked == [(20, 30)]
    assert torch.equal(output.depth_m, head.decoder(features, (20, 30), auxiliary=False).depth_m)


def test_overlapping_patches_lie_at_their_centres() -> None:
    part = SeenPart((224, 224), (4.0, 4.0, 220.0, 220.0), (0, 0, 224, 224))
    head = ramp_head(siglip())
    hidden = {tap: torch.zeros(1, 32, 27, 27) for tap in head.taps}
    features = TowerFeatures(hidden, None, (224, 224), seen=part, pixels=pixels((224, 224)))
    depth_m = head(features).depth_m[0, :, 0]
    v = places(224, 224)
    torch.testing.assert_close(depth_m[8:216], (v[8:216] - 4) / 8 + 10)
    assert depth_m[0] == depth_m[7] == 10.5  # read by the first patch, and before its centre
    assert depth_m[-1] == 36.5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("architecture", ["tap-mixer", "space-clip"])
def test_every_head_and_its_auxiliary_depth(architecture: str, dtype: torch.dtype) -> None:
    host = siglip()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        head = DepthHead.for_tower(host, architecture=architecture).to(dtype)
    with attach_depth_head(host, head.eval()) as depth, torch.no_grad():
        host(pixels((IMAGE, IMAGE), batch=2))
        [features] = depth.features()
    output = head(features, (96, 60), auxiliary=True)
    maps = [output.depth_m, *output.auxiliary_m, *([] if output.uncertainty_m is None else [output.uncertainty_m])]
    assert len(maps) == (4 if architecture == "space-clip" else 2)
    for values in maps:
        assert values.shape == (2, 96, 60)
        assert values.dtype == dtype
        assert not values[:, 84:].any()  # 42 of 48 pixels, twice as large
        assert not values[:, :, 53:].any()  # the centre of column 52 is at 42.0
        assert bool((values[:, :84, :52] > 0).any())
    twice = head(features, (96, 96)).depth_m
    image = None if features.pixels is None else features.pixels[..., :READ, :READ]
    alone = dataclasses.replace(features, seen=None, image_hw=(READ, READ), pixels=image)
    assert torch.equal(twice[:, :84, :84], head(alone, (84, 84)).depth_m)


def test_points_lie_on_the_rays_of_the_pixels_that_were_seen() -> None:
    camera = Intrinsics(500.0, 500.0, 320.0, 240.0, (480, 640))
    found = read_ramp(mapping=ImageMapping.stretched((480, 640), (IMAGE, IMAGE)))
    points = found.points(camera)[0]
    row, column = 30, 17  # camera pixel (u, v) = (17.5 * 640 / 48, 30.5 * 480 / 48) = (233.3, 305)
    z = 30.5 / PATCH + 10
    expected = torch.tensor([(17.5 * 640 / 48 - 320) / 500 * z, (305 - 240) / 500 * z, z])
    torch.testing.assert_close(points[row, column], expected)
    assert not points[~found.valid[0]].any()


def test_in_the_camera_too() -> None:
    mapping = ImageMapping.stretched((480, 640), (IMAGE, IMAGE))
    found = read_ramp(mapping=mapping)
    assert found.mapping == dataclasses.replace(mapping, shown=(0.0, 0.0, READ, READ))
    whole = found.in_camera()
    assert torch.equal(whole.valid[0].nonzero().amax(0) + 1, torch.tensor([420, 560]))
    assert int(whole.valid.sum()) == 420 * 560
    torch.testing.assert_close(whole.depth_m[0, 200, 0], torch.tensor(200.5 / 10 / PATCH + 10))


def test_padding_and_what_is_never_read_add_up() -> None:
    padded = ImageMapping.letterboxed((480, 640), (IMAGE, IMAGE), anchor="bottom-right")
    found = read_ramp(mapping=padded)
    assert torch.equal(found.valid[0].nonzero().amin(0), torch.tensor([12, 0]))
    assert int(found.valid.sum()) == (READ - 12) * READ


def test_impossible_parts_are_refused() -> None:
    with pytest.raises(ConfigError, match="49"):
        SeenPart((48, 48), (0.0, 0.0, 42.0, 42.0), (0, 0, 49, 42))
    with pytest.raises(ConfigError, match="grid"):
        SeenPart((48, 48), (0.0, 0.0, 0.0, 42.0), (0, 0, 42, 42))
    with pytest.raises(ConfigError, match="16"):
        SeenPart.of_convolution(nn.Conv2d(3, 1, 16, stride=16), (8, 32))
