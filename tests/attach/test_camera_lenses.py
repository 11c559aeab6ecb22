"""`cameras=` with intrinsics: depth in metres of the camera, checked before the host is touched, and never by guess."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import logging
import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from clip_world import clip_host, head, hook_count, host, images, see
from telling_heads import Reads, knowing
from torch import nn

from spaceclip_plugin import DepthHead, DepthReader, attach_depth_head
from spaceclip_plugin.depth import DepthMap, ImageMapping, Intrinsics
from spaceclip_plugin.errors import ConfigError

__all__ = ["head", "host"]  # fixtures

HEAD_LENS = (0.5, 0.5)
TOP = Intrinsics(fx_px=600.0, fy_px=600.0, cx_px=310.0, cy_px=250.0, image_hw=(480, 640))
WRIST = dataclasses.replace(TOP, fx_px=900.0, fy_px=900.0)
PADDED = ImageMapping.letterboxed((480, 640), (32, 32), anchor="bottom-right")
CROPPED = ImageMapping.centre_cropped((480, 640), (32, 32))
SQUASHED = ImageMapping.stretched((480, 640), (32, 32))
VIEWS = {"top": TOP, "wrist": WRIST}


@pytest.fixture
def plain(head: DepthHead) -> DepthHead:
    """The head, of unknown lens, as heads were before."""
    older = copy.deepcopy(head)
    older.config = dataclasses.replace(head.config, focal_length=None)
    return older


@pytest.fixture(autouse=True)
def told(head: DepthHead) -> None:
    head.config = dataclasses.replace(head.config, focal_length=HEAD_LENS)
    with torch.no_grad():
        head.decoder.depth[-1].bias += 3  # depth ends in a ReLU; of 0 metres nothing could be told


def read(host: nn.Module, depth: Any, *seeds: int, batch: int = 1) -> list[DepthMap]:
    see(host, *seeds, batch=batch)
    return depth.read()


def scaled(camera: Intrinsics, mapping: ImageMapping) -> float:
    x, y = mapping.to_tower(camera).focal_length
    return math.sqrt(x * y / (HEAD_LENS[0] * HEAD_LENS[1]))


def as_it_reads(host: nn.Module, head: DepthHead, *seeds: int, **options: Any) -> list[DepthMap]:
    with attach_depth_head(host, head, **options) as depth:
        return read(host, depth, *seeds)


@pytest.mark.parametrize("mapping", [PADDED, CROPPED, SQUASHED], ids=["padded", "cropped", "squashed"])
def test_points_of_a_floor_that_a_perfect_head_reads(host: nn.Module, head: DepthHead, mapping: ImageMapping) -> None:
    v, u = torch.meshgrid(torch.arange(32) + 0.5, torch.arange(32) + 0.5, indexing="ij")
    pixels = mapping.camera_pixels(torch.stack([u, v], dim=-1).double())
    rays = torch.stack([(pixels[..., 0] - 310) / 600, (pixels[..., 1] - 250) / 600, torch.ones(32, 32)], dim=-1)
    normal, offset_m = torch.tensor([0.0, 0.6, 0.8], dtype=torch.float64), 1.2
    points = offset_m / (rays @ normal)[..., None] * rays
    head.decoder = Reads((points[None, ..., 2] / scaled(TOP, mapping)).float())
    with attach_depth_head(host, head, cameras={"top": TOP}, mapping=mapping) as depth:
        [found] = read(host, depth, 0)
    assert found.lens == "known"
    assert found.intrinsics == mapping.to_tower(TOP)
    shown = mapping.valid_tower_pixels()
    assert torch.equal(found.valid[0], shown)
    torch.testing.assert_close(found.points()[0][shown].double(), points[shown], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.uncertainty_m, 0.1 * found.depth_m)


@pytest.mark.parametrize("size", [(8, 8), (16, 4), (64, 64)])
def test_depth_of_another_size_is_of_the_same_camera_and_image(
    host: nn.Module, head: DepthHead, size: tuple[int, int]
) -> None:
    camera, mapping = Intrinsics(60.0, 60.0, 31.0, 25.0, (48, 64)), ImageMapping.letterboxed((48, 64), (32, 32))
    with attach_depth_head(host, head, cameras={"wrist": camera}, mapping=mapping) as depth:
        see(host, 1)
        [seen] = depth.read(size)
    rows, columns = ((torch.arange(count) + 0.5) * 32 / count for count in size)
    # 24 of the tower's 32 rows show the camera's image, at half its size.
    x, y = (2 * columns - 31) / 60, (2 * (rows - 4) - 25) / 60
    points = seen.points()[0]
    torch.testing.assert_close(points[..., 0], x * points[..., 2])
    torch.testing.assert_close(points[..., 1], y[:, None] * points[..., 2])
    assert torch.equal(seen.valid[0], ((rows > 4) & (rows < 28))[:, None].expand(size))
    assert seen.in_camera().depth_m.shape == (1, 48, 64)


class TestWhichCamera:
    def test_two_cameras_in_order_and_their_newest_depth(self, host: nn.Module, head: DepthHead) -> None:
        mapping = {"top": SQUASHED, "wrist": PADDED}
        bare = as_it_reads(host, head, 0, 1, cameras=["top", "wrist"], mapping=mapping)
        with attach_depth_head(host, head, cameras=VIEWS, mapping=mapping) as depth:
            found = read(host, depth, 0, 1)
            newest = [depth.latest_of(name) for name in VIEWS]
            assert [one.lens for one in (*newest, *depth.latest_of_each, depth.latest)] == ["known"] * 5
        for one, raw, last, (name, camera) in zip(found, bare, newest, VIEWS.items(), strict=True):
            assert (raw.lens, raw.focal_length, raw.intrinsics) == ("assumed", HEAD_LENS, None)
            assert (one.camera, one.lens) == (name, "known")
            assert one.intrinsics == last.intrinsics == mapping[name].to_tower(camera)
            torch.testing.assert_close(one.depth_m, raw.depth_m * scaled(camera, mapping[name]))
            assert last.depth_m is one.depth_m

    def test_none_for_one_of_them(self, host: nn.Module, head: DepthHead) -> None:
        with attach_depth_head(host, head, cameras={"top": None, "wrist": WRIST}, mapping=SQUASHED) as depth:
            found = read(host, depth, 0, 1)
        assert [(one.camera, one.lens) for one in found] == [("top", "assumed"), ("wrist", "known")]

    @pytest.mark.parametrize(
        ("cameras", "lens"),
        [
            (VIEWS, "assumed"),
            ({"top": TOP, "wrist": None}, "assumed"),
            ({"top": TOP, "wrist": dataclasses.replace(TOP)}, "known"),
            ({"top": None, "wrist": None}, "assumed"),
        ],
    )
    def test_a_call_without_a_name(self, host: nn.Module, head: DepthHead, cameras: Any, lens: str) -> None:
        """Of all cameras in one call, or of one of them: whose it is matters unless all are alike."""
        with attach_depth_head(host, head, cameras=cameras, mapping=SQUASHED) as depth:
            [found] = read(host, depth, 0, batch=2)
        assert (found.camera, found.lens, len(found)) == (None, lens, 2)

    def test_a_batch_of_one_camera(self, host: nn.Module, head: DepthHead) -> None:
        with attach_depth_head(host, head, cameras={"top": TOP}, mapping=SQUASHED) as depth:
            [found] = read(host, depth, 0, batch=3)
        assert (found.camera, found.lens, found.points().shape) == ("top", "known", (3, 32, 32, 3))

    def test_images_that_someone_else_made(self, host: nn.Module, head: DepthHead) -> None:
        with attach_depth_head(host, head, cameras=VIEWS, mapping=SQUASHED) as depth:
            depth.refresh(images(0), camera="wrist")
            depth.refresh(images(0), camera="wrist", mapping=PADDED)
            depth.refresh(images(0), camera="wrist", mapping=None)
            squashed, padded, untold = depth.read()
        assert squashed.intrinsics == SQUASHED.to_tower(WRIST)
        assert padded.intrinsics == PADDED.to_tower(WRIST)
        assert (untold.lens, untold.mapping) == ("assumed", None)

    def test_in_the_background(self, host: nn.Module, head: DepthHead) -> None:
        with (
            attach_depth_head(host, head, cameras={"top": TOP}, mapping=PADDED) as depth,
            DepthReader(depth, background=True) as reader,
        ):
            see(host, 0)
            reader.step()
            reader.wait()
            assert reader.latest.intrinsics == depth.latest_of("top").intrinsics == PADDED.to_tower(TOP)


class TestImagesOfAnotherCamera:
    """Of `refresh`, whose images may be anyone's."""

    @pytest.mark.parametrize("mapping", [PADDED, CROPPED, None], ids=["padded", "cropped", "not told"])
    def test_intrinsics_of_their_own(self, host: nn.Module, head: DepthHead, mapping: ImageMapping | None) -> None:
        with attach_depth_head(host, head, cameras={"top": TOP}, mapping=SQUASHED) as depth:
            depth.refresh(images(0), mapping=mapping, lens=None)
            [bare] = depth.read()
            depth.refresh(images(0), mapping=mapping, lens=WRIST)
            [found] = depth.read()
        expected = bare.with_intrinsics(WRIST)
        assert (bare.lens, found.lens) == ("assumed", "known")
        assert found.intrinsics == expected.intrinsics
        torch.testing.assert_close(found.depth_m, expected.depth_m, rtol=0, atol=0)

    @pytest.mark.parametrize("wrong", ["camera", 1, TOP.matrix(), {"top": TOP}])
    def test_what_is_no_lens(self, host: nn.Module, head: DepthHead, wrong: Any) -> None:
        with attach_depth_head(host, head) as depth, pytest.raises(ConfigError, match="lens of refresh"):
            depth.refresh(images(0), lens=wrong)


class TestNoMapping:
    @pytest.mark.parametrize("image_hw", [(32, 32), (16, 16), (480, 480)])
    def test_of_a_camera_as_square_as_the_tower(
        self, host: nn.Module, head: DepthHead, image_hw: tuple[int, int]
    ) -> None:
        camera = Intrinsics.from_fovy(1.0, image_hw)
        with attach_depth_head(host, head, cameras={"top": camera}) as depth:
            [found] = read(host, depth, 0)
        assert found.lens == "known"
        assert found.focal_length == pytest.approx(camera.focal_length)

    def test_the_towers_image_turns_out_to_be_another(self, head: DepthHead) -> None:
        wide = clip_host()
        if "interpolate_pos_encoding" not in inspect.signature(wide.forward).parameters:
            pytest.skip("the CLIP of this transformers reads images of one size only")
        with attach_depth_head(wide, head, cameras={"top": Intrinsics.from_fovy(1.0, (64, 64))}) as depth:
            with torch.no_grad():
                wide(torch.randn(1, 3, 32, 64), interpolate_pos_encoding=True)
            with pytest.raises(ConfigError, match=r"'top' are of 64x64.*32x64.*give mapping="):
                depth.read()


class TestRefusals:
    """Before any hook is registered."""

    @pytest.mark.parametrize(
        ("cameras", "options", "named"),
        [
            ({"top": TOP}, {}, r"'top' are of 480x640 \(HxW\) images, the tower sees 32x32.*give mapping="),
            (VIEWS, {"mapping": {"top": SQUASHED}}, r"'wrist' are of 480x640.*give mapping="),
            ({"top": Intrinsics.from_fovy(1.0, (480, 480))}, {"mapping": SQUASHED}, r"480x480.*480x640"),
            ({"top": dataclasses.replace(TOP, cx_px=700.0)}, {"mapping": SQUASHED}, r"'top': the principal point"),
            ({"top": dataclasses.replace(TOP, fx_px=9e3, fy_px=9e3)}, {"mapping": SQUASHED}, r"'top': .* 3\.1 degrees"),
            ({"top": TOP.matrix()}, {"mapping": SQUASHED}, r"'top'.*Tensor.*from_matrix"),
            ({"top": (600.0, 600.0)}, {"mapping": SQUASHED}, r"'top'.*tuple"),
            ({}, {}, "cameras"),
            ({"": TOP}, {}, "cameras"),
            ({3: TOP}, {}, "cameras"),
        ],
    )
    def test_intrinsics_that_cannot_be(
        self, host: nn.Module, head: DepthHead, cameras: Any, options: Any, named: str
    ) -> None:
        before = [value.clone() for value in host.state_dict().values()]
        with pytest.raises(ConfigError, match=named):
            attach_depth_head(host, head, cameras=cameras, **options)
        assert hook_count(host) == 0
        assert all(a.equal(b) for a, b in zip(before, host.state_dict().values(), strict=True))


class SmolVLAPolicy(nn.Module):
    """Declared: pads on the left and on the top, one call of the tower per camera."""

    def __init__(self, **shapes: tuple[int, int]) -> None:
        super().__init__()
        self.eye = clip_host()
        features = {f"observation.images.{name}": SimpleNamespace(shape=(3, *hw)) for name, hw in shapes.items()}
        self.config = SimpleNamespace(image_features=features, resize_imgs_with_padding=(32, 32))

    def look(self, *mappings: ImageMapping) -> None:
        for seed, mapping in enumerate(mappings):
            with torch.no_grad():
                self.eye(torch.where(mapping.valid_tower_pixels(), images(seed), torch.tensor(-1.0)))


class TestDeclared:
    @pytest.mark.parametrize(
        ("cameras", "lenses"),
        [
            (VIEWS, ["known", "known"]),
            ({"wrist": WRIST, "top": TOP}, ["known", "known"]),
            ({"wrist": WRIST}, ["assumed", "known"]),
            ({"top": TOP}, ["known", "assumed"]),
        ],
    )
    def test_some_of_its_cameras_in_any_order(self, head: DepthHead, cameras: Any, lenses: list[str]) -> None:
        policy = SmolVLAPolicy(top=(480, 640), wrist=(480, 640))
        with attach_depth_head(policy, head, cameras=cameras) as depth:
            policy.look(PADDED, PADDED)
            found = depth.read()
        assert [(one.camera, one.lens) for one in found] == list(zip(("top", "wrist"), lenses, strict=True))
        assert all(one.intrinsics == PADDED.to_tower(VIEWS[one.camera]) for one in found if one.lens == "known")

    def test_a_call_without_a_name_may_be_of_a_camera_that_was_not_told(self, head: DepthHead) -> None:
        policy = SmolVLAPolicy(top=(480, 640), wrist=(480, 640))
        for cameras, lens in (({"top": TOP}, "assumed"), ({"top": TOP, "wrist": TOP}, "known")):
            with attach_depth_head(policy, head, cameras=cameras) as depth:
                policy.look(PADDED, PADDED)
                depth.read()  # their padding is borne out
                policy.look(PADDED)
                [found] = depth.read()
            assert (found.camera, found.lens) == (None, lens)

    @pytest.mark.parametrize("name", ["wirst", "observation.images.wrist"])
    @pytest.mark.parametrize("camera", [TOP, None])
    def test_names_that_are_not_there(self, head: DepthHead, name: str, camera: Intrinsics | None) -> None:
        policy = SmolVLAPolicy(top=(480, 640), wrist=(480, 640))
        with pytest.raises(ConfigError, match=rf"'{name}'.*did you mean 'wrist'.*top, wrist"):
            attach_depth_head(policy, head, cameras={"top": TOP, name: camera})
        assert hook_count(policy) == 0

    def test_a_camera_of_another_shape_than_declared(self, head: DepthHead) -> None:
        policy = SmolVLAPolicy(top=(256, 256))
        with pytest.raises(ConfigError, match=r"480x640.*256x256"):
            attach_depth_head(policy, head, cameras={"top": TOP})
        assert hook_count(policy) == 0

    def test_padding_that_is_not_as_declared_leaves_the_lens_open(self, head: DepthHead) -> None:
        policy = SmolVLAPolicy(top=(480, 640))
        other = ImageMapping.letterboxed((360, 640), (32, 32), anchor="bottom-right")
        with attach_depth_head(policy, head, cameras={"top": TOP}) as depth:
            policy.look(other)
            [found] = depth.read()
        assert (found.lens, found.mapping) == ("assumed", None)
        with pytest.raises(ConfigError, match="mapping="):
            found.points(TOP)


class TestHeadsThatTellLess:
    def test_an_old_head_warns_and_its_metres_stay(
        self, host: nn.Module, plain: DepthHead, caplog: pytest.LogCaptureFixture
    ) -> None:
        [bare] = as_it_reads(host, plain, 0, mapping=SQUASHED)
        assert "focal length" not in caplog.text
        [found] = as_it_reads(host, plain, 0, mapping=SQUASHED, cameras={"top": TOP})
        assert "does not tell the focal length" in caplog.text
        assert (bare.lens, found.lens) == ("unknown", "unknown")
        assert torch.equal(found.depth_m, bare.depth_m)
        assert torch.equal(found.points(), bare.points(TOP))

    def test_a_lens_that_was_assumed_warns(
        self, host: nn.Module, head: DepthHead, caplog: pytest.LogCaptureFixture
    ) -> None:
        head.config = dataclasses.replace(head.config, focal_length_assumed=True)
        with caplog.at_level(logging.WARNING):
            [found] = as_it_reads(host, head, 0, mapping=SQUASHED, cameras={"top": TOP})
        assert "no training data told the focal length" in caplog.text
        assert found.lens == "known"

    def test_nobody_is_warned_without_intrinsics(
        self, host: nn.Module, plain: DepthHead, caplog: pytest.LogCaptureFixture
    ) -> None:
        as_it_reads(host, plain, 0, cameras={"top": None})
        assert "focal length" not in caplog.text


def test_the_host_stays_bit_identical(host: nn.Module, head: DepthHead) -> None:
    with torch.no_grad():
        before = host(images(0)).last_hidden_state
        with attach_depth_head(host, knowing(head, host), cameras={"top": TOP}, mapping=PADDED) as depth:
            assert depth.verify(lambda: host(images(0))).identical
            assert host(images(0)).last_hidden_state.equal(before)
            [found] = depth.read()
        assert found.familiarity is not None
        assert host(images(0)).last_hidden_state.equal(before)
    assert hook_count(host) == 0
