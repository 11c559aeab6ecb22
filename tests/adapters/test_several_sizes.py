"""Images of several sizes in one call: packed, windowed, padded and masked towers give each image its own depth."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
import transformers
from families import HOSTS
from fresh_heads import fresh_head
from packed_vlms import merged_patches
from tiny_hosts import PATCH, WIDTH, TinyHost
from torch import Tensor, nn

from spaceclip_plugin import DepthHead, attach_depth_head
from spaceclip_plugin.depth.camera import Intrinsics
from spaceclip_plugin.errors import CaptureError, ConfigError
from spaceclip_plugin.head.architectures import ARCHITECTURES
from spaceclip_plugin.towers.spec import TowerFeatures

SMALL: dict[str, dict[str, Any]] = {
    "space-clip": {"channels": (8, 6), "semantic_taps": (3, 1), "structural_taps": (0,), "film_hidden": 4},
    "tap-mixer": {"taps": (0, 1, 3), "channels": (48, 8), "convolutions": (1, 1), "attention": 1, "pixels": 4},
}

every_architecture = pytest.mark.parametrize("architecture", ARCHITECTURES)


def head_for(host: nn.Module, architecture: str) -> DepthHead:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return fresh_head(host, architecture=architecture, **SMALL[architecture]).eval()


def named(name: str) -> TinyHost:
    for tiny in HOSTS:
        if tiny.name == name:
            return tiny
    return pytest.skip(f"the installed transformers {transformers.__version__} has no host for {name}")


def image(rows: int, columns: int, seed: int) -> Tensor:
    return torch.randn(1, 3, rows * PATCH, columns * PATCH, generator=torch.Generator().manual_seed(seed))


def features_of(host: nn.Module, run: Any, architecture: str) -> TowerFeatures:
    with torch.no_grad(), attach_depth_head(host, head_for(host, architecture)) as depth:
        run(host)
        [features] = depth.features()
        run(host)
        [frame] = depth.read()
    assert frame.depth_m.shape == (len(features.hidden[0]), *features.image_hw)
    if features.valid is not None:
        inside = features.valid.repeat_interleave(PATCH, 1).repeat_interleave(PATCH, 2)
        assert torch.equal(frame.valid, inside & (frame.depth_m > 0))
    return features


def check_each_alone(together: TowerFeatures, alone: list[TowerFeatures], grids: list[tuple[int, int]]) -> None:
    """An image among others has the features it has alone; cells outside it are zero and not valid."""
    height, width = max(h for h, _ in grids), max(w for _, w in grids)
    assert together.image_hw == (height * PATCH, width * PATCH)
    for i, ((rows, columns), own) in enumerate(zip(grids, alone, strict=True)):
        expected = torch.zeros(height, width, dtype=torch.bool)
        expected[:rows, :columns] = True
        assert torch.equal(together.valid[i], expected)
        assert (together.context is None) == (own.context is None)
        if own.context is not None:
            torch.testing.assert_close(together.context[i], own.context[0], rtol=1e-4, atol=1e-5)
        for tap, patch_map in together.hidden.items():
            assert patch_map.shape == (len(grids), WIDTH, height, width)
            torch.testing.assert_close(patch_map[i, :, :rows, :columns], own.hidden[tap][0], rtol=1e-4, atol=1e-5)
            assert not patch_map[i][:, ~expected].any()
        if own.pixels is not None:
            shown = together.pixels[i, :, : rows * PATCH, : columns * PATCH]
            assert torch.equal(shown, own.pixels[0])
            assert together.pixels[i].count_nonzero() == shown.count_nonzero()


@every_architecture
@pytest.mark.parametrize("name", ["qwen2-vl", "qwen2.5-vl", "qwen3-vl"])
def test_qwen_images_and_videos(name: str, architecture: str) -> None:
    host = named(name).seeded()
    grids = [(8, 12), (4, 6), (2, 14), (6, 6)]  # windows are 2x2 units of 2x2 patches: whole, cut and single ones
    packed = [merged_patches(image(rows, columns, i)) for i, (rows, columns) in enumerate(grids)]

    def call(images: list[tuple[Tensor, Tensor]]) -> Any:
        patches, sizes = torch.cat([p for p, _ in images]), torch.cat([g for _, g in images])
        return lambda tower: tower(patches, grid_thw=sizes)

    alone = [features_of(host, call([one]), architecture) for one in packed]
    assert all(own.valid is None for own in alone)
    check_each_alone(features_of(host, call(packed), architecture), alone, grids)

    # Two frames of a video are two images of one grid.
    (first, _), (second, _) = packed[1], merged_patches(image(4, 6, 9))
    video = torch.cat([first, second])
    clip = features_of(host, lambda tower: tower(video, grid_thw=torch.tensor([[2, 4, 6]])), architecture)
    assert clip.valid is None
    assert {tuple(value.shape) for value in clip.hidden.values()} == {(2, WIDTH, 4, 6)}
    torch.testing.assert_close(clip.hidden[0][:1], alone[1].hidden[0], rtol=1e-4, atol=1e-5)


def naflex(images: list[Tensor]) -> dict[str, Tensor]:
    longest = max(i.shape[2] * i.shape[3] // PATCH**2 for i in images)
    inputs = {
        "pixel_values": torch.zeros(len(images), longest, 3 * PATCH**2),
        "pixel_attention_mask": torch.zeros(len(images), longest, dtype=torch.long),
        "spatial_shapes": torch.tensor([[i.shape[2] // PATCH, i.shape[3] // PATCH] for i in images]),
    }
    for row, picture in enumerate(images):
        patches = picture[0].unfold(1, PATCH, PATCH).unfold(2, PATCH, PATCH).permute(1, 2, 3, 4, 0).flatten(0, 1)
        inputs["pixel_values"][row, : len(patches)] = patches.flatten(1)
        inputs["pixel_attention_mask"][row, : len(patches)] = 1
    return inputs


@every_architecture
def test_naflex_with_a_padded_tail(architecture: str) -> None:
    host, grids = named("siglip2-naflex").seeded(), [(3, 5), (5, 4), (2, 2)]
    images = [image(rows, columns, i) for i, (rows, columns) in enumerate(grids)]
    alone = [features_of(host, lambda tower, one=one: tower(**naflex([one])), architecture) for one in images]
    check_each_alone(features_of(host, lambda tower: tower(**naflex(images)), architecture), alone, grids)


def packed_calls(name: str) -> Any:
    """What makes the call of a host for images of several sizes."""
    if name == "siglip2-naflex":
        return lambda images: lambda tower: tower(**naflex(images))

    def call(images: list[Tensor]) -> Any:
        pairs = [merged_patches(one) for one in images]
        patches, sizes = torch.cat([p for p, _ in pairs]), torch.cat([g for _, g in pairs])
        return lambda tower: tower(patches, grid_thw=sizes)

    return call


@pytest.mark.parametrize("name", ["qwen2-vl", "qwen2.5-vl", "siglip2-naflex"])
def test_each_image_is_as_familiar_as_alone_and_a_blank_one_is_not(name: str) -> None:
    host, call = named(name).seeded(), packed_calls(name)
    head = head_for(host, "tap-mixer")
    with torch.no_grad(), attach_depth_head(host, head) as depth:
        call([image(4, 6, 100 + i) for i in range(100)])(host)
        [features] = depth.features()
        head.learn_familiarity(features.hidden[head.familiar_tap].mean(dim=(2, 3))[:, None])
        like, blank = [image(4, 6, i) for i in range(5)], torch.full((1, 3, 4 * PATCH, 6 * PATCH), -1.0)
        call(like)(host)
        call([*like, image(8, 4, 9), blank])(host)
        alone, together = depth.read()
    assert float(alone.familiarity.mean()) > 0.15
    torch.testing.assert_close(together.familiarity[:5], alone.familiarity, rtol=0, atol=0.03)
    assert float(together.familiarity[6]) < 0.01
    assert together[6].familiarity.equal(together.familiarity[6:])


@every_architecture
@pytest.mark.parametrize("name", ["idefics3", "smolvlm"])
def test_masked_patches_are_not_valid(name: str, architecture: str) -> None:
    tiny = named(name)
    host = tiny.seeded()
    mask = torch.zeros(2, 4, 4, dtype=torch.bool)
    mask[0], mask[1, :3, :2] = True, True
    run = functools.partial(host.vision_model, tiny.pixels(), patch_attention_mask=mask)
    features = features_of(host, lambda _model: run(), architecture)
    assert torch.equal(features.valid, mask)
    with torch.no_grad():
        output = run().last_hidden_state
    for i in range(2 if features.context is not None else 0):
        torch.testing.assert_close(features.context[i], output[i][mask[i].flatten()].mean(dim=0))
    # A mask that masks nothing leaves every patch valid, and says so by None.
    assert features_of(host, lambda model: model.vision_model(tiny.pixels()), architecture).valid is None


@pytest.mark.parametrize("name", ["qwen2.5-vl", "siglip2-naflex"])
def test_sizes_that_do_not_fit_the_patches_are_refused(name: str) -> None:
    host = named(name).seeded()
    with attach_depth_head(host, head_for(host, "tap-mixer")) as depth:
        with pytest.raises(CaptureError, match="multiples of"):
            depth.refresh(torch.zeros(1, 3, 3 * PATCH + 1, 4 * PATCH))
        assert depth.read() == []


@every_architecture
def test_each_image_is_cut_out_in_its_own_size(architecture: str) -> None:
    host, sizes = named("siglip2-naflex").seeded(), [(28, 28), (56, 42)]
    images = [image(height // PATCH, width // PATCH, i) for i, (height, width) in enumerate(sizes)]
    camera = Intrinsics(28.0, 28.0, 14.0, 14.0, (28, 28))
    with torch.no_grad(), attach_depth_head(host, head_for(host, architecture)) as depth:
        host(**naflex(images))
        [together] = depth.read()
        host(**naflex(images))
        [halved] = depth.read((28, 21))
        host(**naflex(images[:1]))
        [alone] = depth.read()
    assert (together.image_hw, together.image_sizes) == ((56, 42), tuple(sizes))
    with pytest.raises(ConfigError, match="several sizes"):
        together.points(camera)
    for i, one in enumerate(together):
        assert (one.image_hw, one.image_sizes, tuple(one.depth_m.shape[1:])) == (sizes[i], None, sizes[i])
    assert halved[0].depth_m.shape == (1, 14, 14)
    # The same camera rays as without the other image, whatever the depth at the seam.
    directions = [points[..., :2] / points[..., 2:] for points in (together[0].points(camera), alone.points(camera))]
    torch.testing.assert_close(*directions)


def test_the_tap_mixer_s_depth_of_an_image_hardly_depends_on_a_larger_one() -> None:
    host, grids = named("siglip2-naflex").seeded(), [(3, 5), (5, 7)]
    images = [image(rows, columns, i) for i, (rows, columns) in enumerate(grids)]
    with torch.no_grad(), attach_depth_head(host, head_for(host, "tap-mixer")) as depth:
        for one in (images[:1], images):
            host(**naflex(one))
        alone, together = depth.read()
    reach = PATCH // 2 + 2  # of the two upsamplings into the padding: half a patch, and a pixel of a patch's eight
    height, width = (side * PATCH - reach for side in grids[0])
    torch.testing.assert_close(
        together[0].depth_m[:, :height, :width], alone.depth_m[:, :height, :width], rtol=1e-4, atol=1e-5
    )


def test_grid_sizes_that_are_used_again_before_anyone_reads() -> None:
    host, inputs = named("siglip2-naflex").seeded(), naflex([image(2, 6, 0)])
    with torch.no_grad(), attach_depth_head(host, head_for(host, "tap-mixer")) as depth:
        host(**inputs)
        inputs["spatial_shapes"].copy_(torch.tensor([[6, 2]]))
        [frame] = depth.read()
    assert frame.image_hw == (2 * PATCH, 6 * PATCH)
