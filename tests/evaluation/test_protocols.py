from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from PIL import Image

from spaceclip_plugin.data.sample import DepthSample
from spaceclip_plugin.depth import Intrinsics
from spaceclip_plugin.errors import ConfigError, DataError
from spaceclip_plugin.evaluation import PROTOCOLS, Protocol, get_protocol
from spaceclip_plugin.evaluation.metrics import depth_metrics
from spaceclip_plugin.evaluation.protocol import FractionRegion

KITTI_SIZES = [(375, 1242), (370, 1226), (374, 1238), (376, 1241), (370, 1224)]
NYU_SIZE = (480, 640)
NO_MASK = ("spaceclip-nyu", "whole-image")
CROPPED = ("kitti-eigen", "kitti-garg", "kitti-eigen-crop", "kitti-garg-crop")


def sample_of(depth_m: np.ndarray, name: str = "list.txt:7 a.png") -> DepthSample:
    image = np.arange(depth_m.size * 3, dtype=np.uint64).reshape(*depth_m.shape, 3) % 251
    return DepthSample(image.astype(np.uint8), depth_m.astype(np.float32), name)


def size_for(name: str) -> tuple[int, int]:
    return (375, 1242) if "kitti" in name else NYU_SIZE


def random_depth(image_hw: tuple[int, int], low: float, high: float) -> np.ndarray:
    return np.random.default_rng(0).uniform(low, high, image_hw).astype(np.float32)


def pixel_by_pixel(image_hw: tuple[int, int], rows: tuple[int, int], columns: tuple[int, int]) -> torch.Tensor:
    inside_rows = [rows[0] <= v < rows[1] for v in range(image_hw[0])]
    inside_columns = [columns[0] <= u < columns[1] for u in range(image_hw[1])]
    return torch.tensor(inside_rows)[:, None] & torch.tensor(inside_columns)[None]


def test_the_protocols_and_their_encodings() -> None:
    nyu = ["nyu-eigen", "nyu-eigen-inner"]
    assert list(PROTOCOLS) == [*nyu, *CROPPED, "spaceclip-nyu", "spaceclip-kitti", "whole-image"]
    for name, protocol in PROTOCOLS.items():
        assert get_protocol(name) is protocol
        assert protocol.name == name
        kitti = "kitti" in name
        assert (protocol.depth_scale, protocol.min_depth_m, protocol.max_depth_m) == (
            (256, 1e-3, 80) if kitti else (1000, 1e-3, 10)
        )
        assert protocol.kb_crop == (name in CROPPED)
        assert ("BTS variant" in protocol.description) == (name in ("kitti-eigen", "kitti-garg"))
        assert ("AdaBins and ZoeDepth variant" in protocol.description) == name.endswith("-crop")
        assert "\n" not in protocol.description


def test_unknown_name_offers_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"'kiti-garg'.*'kitti-garg'"):
        get_protocol("kiti-garg")


@pytest.mark.parametrize(
    ("name", "image_hw", "rows", "columns"),
    [
        ("nyu-eigen", NYU_SIZE, (45, 471), (41, 601)),
        ("nyu-eigen-inner", NYU_SIZE, (45, 471), (41, 601)),
        ("spaceclip-nyu", NYU_SIZE, (0, 480), (0, 640)),
        # Pixels worked out from the fractions by hand: 0.40810811 * 375 = 153.04, 0.03594771 * 1242 = 44.65, …
        ("kitti-garg", (375, 1242), (153, 371), (44, 1197)),
        ("kitti-garg", (370, 1226), (151, 366), (44, 1181)),
        ("kitti-eigen", (375, 1242), (124, 342), (44, 1197)),
        # Within the crop: 0.40810811 * 352 = 143.65, 0.99189189 * 352 = 349.15, 0.03594771 * 1216 = 43.71, …
        ("kitti-garg-crop", (375, 1242), (23 + 143, 23 + 349), (13 + 43, 13 + 1172)),
        ("kitti-garg-crop", (370, 1226), (18 + 143, 18 + 349), (5 + 43, 5 + 1172)),
        ("kitti-eigen-crop", (375, 1242), (23 + 117, 23 + 321), (13 + 43, 13 + 1172)),
        ("whole-image", (5, 7), (0, 5), (0, 7)),
        ("spaceclip-kitti", (352, 704), (117, 321), (25, 678)),
    ],
)
def test_mask_pixel_by_pixel(
    name: str, image_hw: tuple[int, int], rows: tuple[int, int], columns: tuple[int, int]
) -> None:
    assert torch.equal(get_protocol(name).mask(image_hw), pixel_by_pixel(image_hw, rows, columns))


def test_the_spaceclip_mask_lies_on_the_resized_target() -> None:
    protocol = get_protocol("spaceclip-kitti")
    assert protocol.target_hw((375, 1242)) == (352, 704)
    assert torch.equal(protocol.mask((375, 1242)), protocol.mask((352, 704)))
    assert protocol.crop_box((375, 1242)) == (0, 0, 375, 1242)


@pytest.mark.parametrize("image_hw", KITTI_SIZES)
def test_on_kitti_sizes_both_regions_lie_inside_the_crop(image_hw: tuple[int, int]) -> None:
    # So "mask inside crop" changes no published number: it only keeps unseen pixels out on unusual sizes.
    for name in ("kitti-eigen", "kitti-garg"):
        protocol = get_protocol(name)
        inside = torch.zeros(image_hw, dtype=torch.bool)
        inside[protocol.region.slices(image_hw)] = True
        assert torch.equal(protocol.mask(image_hw), inside)


def test_pixels_outside_the_crop_never_count() -> None:
    protocol, image_hw = get_protocol("kitti-eigen"), (704, 1400)
    top, left, height, width = protocol.crop_box(image_hw)
    assert (top, left, height, width) == (352, 92, 352, 1216)
    expected = pixel_by_pixel(image_hw, (352, int(0.91351351 * 704)), (92, 92 + 1216))
    assert torch.equal(protocol.mask(image_hw), expected)


def test_input_image_is_the_bottom_centre_crop() -> None:
    sample = sample_of(random_depth((375, 1242), 1, 80))
    image = get_protocol("kitti-garg").input_image(sample)
    assert image.shape == (352, 1216, 3)
    assert image.dtype == np.uint8
    assert image.flags.c_contiguous
    np.testing.assert_array_equal(image, sample.image[23:375, 13:1229])
    np.testing.assert_array_equal(get_protocol("spaceclip-kitti").input_image(sample), sample.image)


def test_an_odd_margin_of_the_crop_is_rounded_down() -> None:
    assert get_protocol("kitti-eigen").crop_box((376, 1241)) == (24, 12, 352, 1216)


@pytest.mark.parametrize("name", list(PROTOCOLS))
def test_a_perfect_prediction_of_the_crop_scores_zero(name: str) -> None:
    protocol = get_protocol(name)
    image_hw = size_for(name)
    depth = random_depth(image_hw, 0.5, protocol.max_depth_m - 0.5)
    sample = sample_of(depth)
    if name == "spaceclip-kitti":
        seen = torch.from_numpy(np.array(Image.fromarray(depth).resize((704, 352), Image.Resampling.NEAREST)))
    else:
        top, left, height, width = protocol.crop_box(image_hw)
        seen = torch.from_numpy(depth[top : top + height, left : left + width])
    assert protocol.score(seen, sample).rmse == pytest.approx(0, abs=1e-6)
    assert protocol.score(seen.roll(1, 0), sample).rmse > 0.5


@pytest.mark.parametrize("name", ["nyu-eigen", "nyu-eigen-inner", *CROPPED])
def test_score_looks_at_the_mask_and_nowhere_else(name: str) -> None:
    protocol = get_protocol(name)
    image_hw = size_for(name)
    depth = np.full(image_hw, 5.0, dtype=np.float32)
    depth[~protocol.mask(image_hw).numpy()] = 1.0
    flat = torch.full((24, 32), 5.0)
    assert protocol.score(flat, sample_of(depth)).abs_rel == 0.0
    row, column = (int(v) for v in protocol.mask(image_hw).nonzero()[0])
    depth[row, column] = 2.5
    count = int(protocol.mask(image_hw).sum())
    assert protocol.score(flat, sample_of(depth)).abs_rel == pytest.approx(1.0 / count, rel=1e-6)


def test_prediction_is_resized_with_half_pixel_centres_and_clipped() -> None:
    protocol, depth = get_protocol("spaceclip-nyu"), random_depth((4, 8), 1, 9)
    prediction = torch.tensor([[-3.0, 20.0]])
    # Columns of two source pixels at eight centres: u / 4 - 0.375 from the first centre, held at the ends.
    ramp = (-3.0 + 23.0 * (torch.arange(8) / 4 - 0.375).clamp(0, 1)).expand(4, 8)
    valid = torch.ones(4, 8, dtype=torch.bool)
    expected = depth_metrics(ramp.clamp(1e-3, 10), torch.from_numpy(depth), valid=valid)
    assert protocol.score(prediction, sample_of(depth)) == expected


def test_ground_truth_outside_the_open_range_does_not_count() -> None:
    depth = np.full((2, 4), 2.0, dtype=np.float32)
    depth[0] = [0.0, 1e-3, 10.0, np.inf]  # the last: nothing is there
    assert get_protocol("spaceclip-nyu").score(torch.full((2, 4), 2.0), sample_of(depth)).rmse == 0.0


@pytest.mark.parametrize("name", list(PROTOCOLS))
def test_no_ground_truth_under_the_mask_names_the_sample(name: str) -> None:
    depth = np.zeros(size_for(name), dtype=np.float32)
    if name not in NO_MASK:
        depth[0, 0] = 5.0  # known, but outside the mask
    with pytest.raises(DataError, match=r"list.txt:7 a.png: no ground truth between"):
        get_protocol(name).score(torch.ones(3, 3), sample_of(depth))


def test_sizes_a_protocol_does_not_know_are_refused() -> None:
    small = sample_of(np.ones((240, 320), dtype=np.float32))
    with pytest.raises(DataError, match=r"list.txt:7 a.png: .* defined on 480x640 .* got 240x320"):
        get_protocol("nyu-eigen").score(torch.ones(3, 3), small)
    for call in (
        get_protocol("kitti-garg").input_image,
        lambda s: get_protocol("kitti-garg").score(torch.ones(3, 3), s),
    ):
        with pytest.raises(DataError, match=r"list.txt:7 a.png: .* crops 352x1216 .* got 240x320"):
            call(small)


def test_predictions_that_are_no_depth_map_are_refused() -> None:
    protocol, sample = get_protocol("spaceclip-nyu"), sample_of(np.ones((4, 4), dtype=np.float32))
    with pytest.raises(DataError, match=r"list.txt:7 a.png: .* got \(1, 4, 4\)"):
        protocol.score(torch.ones(1, 4, 4), sample)
    for bad in (torch.nan, torch.inf):
        with pytest.raises(DataError, match=r"list.txt:7 a.png: expected finite metres"):
            protocol.score(torch.full((4, 4), bad), sample)


def test_a_protocol_that_cannot_be_is_refused() -> None:
    region = FractionRegion(0.0, 1.0, 0.0, 1.0)
    with pytest.raises(ConfigError, match="depth_scale"):
        Protocol(name="x", description="", depth_scale=0.0, max_depth_m=10.0, region=region)
    with pytest.raises(ConfigError, match="0 < min_depth_m < max_depth_m"):
        Protocol(name="x", description="", depth_scale=1.0, max_depth_m=1e-4)
    with pytest.raises(ConfigError, match="exclude each other"):
        Protocol(name="x", description="", depth_scale=1.0, max_depth_m=1.0, kb_crop=True, resized_hw=(8, 8))
    for change in ({"kb_crop": False}, {"region": None}):
        with pytest.raises(ConfigError, match="needs kb_crop=True and a region"):
            dataclasses.replace(get_protocol("kitti-garg-crop"), **change)
    for other in ({"kb_crop": True}, {"resized_hw": (8, 8)}):
        with pytest.raises(ConfigError, match=r"frame_px.* exclude|and frame_px exclude"):
            Protocol(name="x", description="", depth_scale=1.0, max_depth_m=1.0, frame_px=8, **other)
    for frame_px in (-1, 65, 8.0, True):
        with pytest.raises(ConfigError, match="frame_px of protocol 'x'"):
            Protocol(name="x", description="", depth_scale=1.0, max_depth_m=1.0, frame_px=frame_px)
    with pytest.raises(ConfigError, match="must be 'target' or 'crop', is 'image'"):
        dataclasses.replace(get_protocol("kitti-garg-crop"), region_within="image")


@pytest.mark.parametrize("name", ["kitti-garg", "spaceclip-kitti", "spaceclip-nyu"])
def test_maps_are_compared_where_the_score_compares_them(name: str) -> None:
    protocol = get_protocol(name)
    sample = sample_of(random_depth((375, 1242), 0, 90))
    first, second = (torch.from_numpy(random_depth((20, 30), 1, 9)) * k for k in (1, 3))
    compared = protocol.compared(torch.stack([first, second]), sample)
    assert compared.maps_m.shape == (2, *protocol.target_hw((375, 1242)))
    for prediction, on_target in zip((first, second), compared.maps_m, strict=True):
        again = depth_metrics(on_target.clamp(1e-3, protocol.max_depth_m), compared.target_m, valid=compared.valid)
        assert again == protocol.score(prediction, sample)
    assert torch.equal(compared.valid & ~protocol.mask((375, 1242)), torch.zeros_like(compared.valid))
    rows, columns = ((23, 375), (13, 1229)) if protocol.kb_crop else ((0, 375), (0, 1242))
    seen = pixel_by_pixel((375, 1242), rows, columns) if protocol.resized_hw is None else torch.ones(352, 704).bool()
    assert torch.equal(compared.maps_m[1].isfinite(), seen)
    with pytest.raises(DataError, match="no ground truth"):
        protocol.compared(first[None], sample_of(np.zeros((375, 1242))))


class TestFrame:
    """Of "nyu-eigen-inner": the host does not see the 8 pixels at every edge."""

    protocol = get_protocol("nyu-eigen-inner")

    def test_the_host_sees_what_is_inside(self) -> None:
        sample = sample_of(random_depth(NYU_SIZE, 1, 9))
        assert self.protocol.crop_box(NYU_SIZE) == (8, 8, 464, 624)
        np.testing.assert_array_equal(self.protocol.input_image(sample), sample.image[8:472, 8:632])
        np.testing.assert_array_equal(self.protocol.training_target(sample), sample.depth_m[8:472, 8:632])
        assert self.protocol.prediction_hw(NYU_SIZE) == (464, 624)

    def test_predictions_are_pasted_back_there(self) -> None:
        sample = sample_of(random_depth(NYU_SIZE, 1, 9))
        compared = self.protocol.compared(torch.from_numpy(sample.depth_m[None, 8:472, 8:632].copy()), sample)
        assert torch.equal(compared.maps_m[0].isfinite(), pixel_by_pixel(NYU_SIZE, (8, 472), (8, 632)))
        assert torch.equal(compared.maps_m[0][compared.valid], compared.target_m[compared.valid])
        assert torch.equal(compared.valid, get_protocol("nyu-eigen").mask(NYU_SIZE))

    def test_an_image_that_is_all_frame(self) -> None:
        with pytest.raises(DataError, match=r"a.png: .*leaves out 8 pixels at every edge.*got 16x640"):
            self.protocol.input_image(sample_of(np.ones((16, 640))))


class TestInputIntrinsics:
    camera = Intrinsics(500.0, 510.0, 320.0, 240.0, NYU_SIZE)

    @pytest.mark.parametrize("scale", [1, 2])
    @pytest.mark.parametrize(("name", "margin"), [("nyu-eigen", 0), ("nyu-eigen-inner", 8), ("whole-image", 0)])
    def test_of_what_the_host_sees(self, name: str, margin: int, scale: int) -> None:
        sample = dataclasses.replace(
            sample_of(np.ones(NYU_SIZE)), intrinsics=self.camera.resized((480 * scale, 640 * scale))
        )
        found, seen = get_protocol(name).input_intrinsics(sample), get_protocol(name).input_image(sample)
        expected = (500.0, 510.0, 320.0 - margin, 240.0 - margin)
        assert (found.fx_px, found.fy_px, found.cx_px, found.cy_px) == expected
        assert found.image_hw == seen.shape[:2]

    def test_of_the_benchmark_crop(self) -> None:
        camera = Intrinsics(721.5, 721.5, 609.6, 172.9, (375, 1242))
        sample = dataclasses.replace(sample_of(np.ones((375, 1242))), intrinsics=camera)
        found = get_protocol("kitti-garg").input_intrinsics(sample)
        assert found == Intrinsics(721.5, 721.5, 609.6 - 13, 172.9 - 23, (352, 1216))

    def test_of_a_sample_without(self) -> None:
        assert get_protocol("nyu-eigen-inner").input_intrinsics(sample_of(np.ones(NYU_SIZE))) is None

    def test_too_small_for_the_crop_names_the_sample(self) -> None:
        camera = Intrinsics(500.0, 510.0, 320.0, 8.0, (16, 640))
        sample = dataclasses.replace(sample_of(np.ones((16, 640))), intrinsics=camera)
        with pytest.raises(DataError, match=r"list.txt:7 a.png: .*got 16x640"):
            get_protocol("nyu-eigen-inner").input_intrinsics(sample)


class TestMedianRange:
    def test_of_every_protocol(self) -> None:
        for name, protocol in PROTOCOLS.items():
            if "nyu" in name:
                assert protocol.median_range_m == (0.5, 8.0)
            elif "kitti" in name:
                assert protocol.median_range_m == (4.0, 60.0)
            else:
                assert protocol.median_range_m == (1e-3, 10.0)

    def test_is_never_wider_than_the_depth_range(self) -> None:
        build = {"name": "x", "description": "", "depth_scale": 1.0, "min_depth_m": 1.0, "max_depth_m": 5.0}
        assert Protocol(**build).median_range_m == (1.0, 5.0)
        assert Protocol(**build, median_range_m=(2.0, 9.0)).median_range_m == (2.0, 5.0)
        assert Protocol(**build, median_range_m=(0.0, 3.0)).median_range_m == (1.0, 3.0)

    @pytest.mark.parametrize("bad", [(3.0, 2.0), (2.0, 2.0), (6.0, 9.0), (0.0, 1.0), (math.nan, 3.0), (2.0, math.nan)])
    def test_one_that_cannot_be_is_refused(self, bad: tuple[float, float]) -> None:
        with pytest.raises(ConfigError, match="protocol 'x': median_range_m"):
            Protocol(name="x", description="", depth_scale=1.0, min_depth_m=1.0, max_depth_m=5.0, median_range_m=bad)


class TestWithRange:
    def test_changes_the_range_and_the_name_alone(self) -> None:
        protocol = get_protocol("kitti-garg-crop")
        near = protocol.with_range(1, 50)
        assert near.name == "kitti-garg-crop 1-50 m"
        assert (near.min_depth_m, near.max_depth_m, near.median_range_m) == (1.0, 50.0, (1.0, 50.0))
        for field in dataclasses.fields(Protocol):
            if field.name not in ("name", "min_depth_m", "max_depth_m", "median_range_m"):
                assert getattr(near, field.name) == getattr(protocol, field.name), field.name
        assert (protocol.name, protocol.max_depth_m) == ("kitti-garg-crop", 80.0)

    def test_the_name_says_the_last_range(self) -> None:
        protocol = get_protocol("whole-image").with_range(0.1, 2)
        assert protocol.name == "whole-image 0.1-2 m"
        assert protocol.with_range(1e-3, 0.25).name == "whole-image 0.001-0.25 m"
        assert protocol.with_range(1e-3, 0.25).median_range_m == (1e-3, 0.25)

    def test_counts_and_clips_by_the_range(self) -> None:
        protocol = get_protocol("whole-image").with_range(0.5, 2.0)
        sample = sample_of(np.array([[0.5, 1.0], [2.0, 1.6]], dtype=np.float32))
        compared = protocol.compared(torch.ones(1, 2, 2), sample)
        assert compared.valid.tolist() == [[False, True], [False, True]]
        assert protocol.score(torch.full((2, 2), 9.0), sample).rmse == pytest.approx(math.sqrt((1 + 0.16) / 2))
        assert protocol.score(torch.full((2, 2), 0.1), sample).rmse == pytest.approx(math.sqrt((0.25 + 1.21) / 2))

    @pytest.mark.parametrize("bad", [(0, 2), (2, 2), (3, 2), (-1, 2), (1, math.inf), (math.nan, 2), (1, math.nan)])
    def test_a_range_that_cannot_be_is_refused(self, bad: tuple[float, float]) -> None:
        with pytest.raises(ConfigError, match=r"'whole-image .* m': needs 0 < min_depth_m < max_depth_m, both finite"):
            get_protocol("whole-image").with_range(*bad)


@pytest.mark.parametrize("image_hw", [(1, 1), (3, 1000), (375, 1242)])
def test_the_whole_image_of_any_size(image_hw: tuple[int, int]) -> None:
    protocol, depth = get_protocol("whole-image"), random_depth(image_hw, 1, 9)
    assert protocol.score(torch.from_numpy(depth), sample_of(depth)).rmse == 0.0
    assert protocol.mask(image_hw).all()
