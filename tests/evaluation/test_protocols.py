from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from spaceclip_plugin.data.image_files import read_depth_png, read_rgb
from spaceclip_plugin.data.sample import DepthSample
from spaceclip_plugin.errors import ConfigError, DataError
from spaceclip_plugin.evaluation.metrics import depth_metrics
from spaceclip_plugin.evaluation.protocols import PROTOCOLS, FractionRegion, Protocol, get_protocol

KITTI_SIZES = [(375, 1242), (370, 1226), (374, 1238), (376, 1241), (370, 1224)]
NYU_SIZE = (480, 640)


def sample_of(depth_m: np.ndarray, name: str = "list.txt:7 a.png") -> DepthSample:
    image = np.arange(depth_m.size * 3, dtype=np.uint64).reshape(*depth_m.shape, 3) % 251
    return DepthSample(image.astype(np.uint8), depth_m.astype(np.float32), name)


def random_depth(image_hw: tuple[int, int], low: float, high: float) -> np.ndarray:
    return np.random.default_rng(0).uniform(low, high, image_hw).astype(np.float32)


def pixel_by_pixel(image_hw: tuple[int, int], rows: tuple[int, int], columns: tuple[int, int]) -> torch.Tensor:
    inside_rows = [rows[0] <= v < rows[1] for v in range(image_hw[0])]
    inside_columns = [columns[0] <= u < columns[1] for u in range(image_hw[1])]
    return torch.tensor(inside_rows)[:, None] & torch.tensor(inside_columns)[None]


def test_the_five_protocols_and_their_encodings() -> None:
    assert list(PROTOCOLS) == ["nyu-eigen", "kitti-eigen", "kitti-garg", "spaceclip-nyu", "spaceclip-kitti"]
    for name, protocol in PROTOCOLS.items():
        assert get_protocol(name) is protocol
        assert protocol.name == name
        kitti = "kitti" in name
        assert (protocol.depth_scale, protocol.min_depth_m, protocol.max_depth_m) == (
            (256, 1e-3, 80) if kitti else (1000, 1e-3, 10)
        )
        assert protocol.kb_crop == (name in ("kitti-eigen", "kitti-garg"))
        assert ("BTS" in protocol.description) == protocol.kb_crop
        assert "\n" not in protocol.description


def test_unknown_name_offers_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"unknown protocol 'kiti-garg' \(did you mean 'kitti-garg'\?\)"):
        get_protocol("kiti-garg")


@pytest.mark.parametrize(
    ("name", "image_hw", "rows", "columns"),
    [
        ("nyu-eigen", NYU_SIZE, (45, 471), (41, 601)),
        ("spaceclip-nyu", NYU_SIZE, (0, 480), (0, 640)),
        # Pixels worked out from the fractions by hand: 0.40810811 * 375 = 153.04, 0.03594771 * 1242 = 44.65, …
        ("kitti-garg", (375, 1242), (153, 371), (44, 1197)),
        ("kitti-garg", (370, 1226), (151, 366), (44, 1181)),
        ("kitti-eigen", (375, 1242), (124, 342), (44, 1197)),
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


@pytest.mark.parametrize("name", list(PROTOCOLS))
def test_a_perfect_prediction_of_the_crop_scores_zero(name: str) -> None:
    protocol = get_protocol(name)
    image_hw = NYU_SIZE if "nyu" in name else (375, 1242)
    depth = random_depth(image_hw, 0.5, protocol.max_depth_m - 0.5)
    sample = sample_of(depth)
    if name == "spaceclip-kitti":
        seen = torch.from_numpy(np.array(Image.fromarray(depth).resize((704, 352), Image.Resampling.NEAREST)))
    else:
        top, left, height, width = protocol.crop_box(image_hw)
        seen = torch.from_numpy(depth[top : top + height, left : left + width])
    assert protocol.score(seen, sample).rmse == pytest.approx(0, abs=1e-6)
    assert protocol.score(seen.roll(1, 0), sample).rmse > 0.5


@pytest.mark.parametrize("name", ["nyu-eigen", "kitti-garg", "kitti-eigen"])
def test_score_looks_at_the_mask_and_nowhere_else(name: str) -> None:
    protocol = get_protocol(name)
    image_hw = NYU_SIZE if name == "nyu-eigen" else (375, 1242)
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
    depth[0] = [0.0, 1e-3, 10.0, 11.0]
    assert get_protocol("spaceclip-nyu").score(torch.full((2, 4), 2.0), sample_of(depth)).rmse == 0.0


@pytest.mark.parametrize("name", list(PROTOCOLS))
def test_no_ground_truth_under_the_mask_names_the_sample(name: str) -> None:
    image_hw = NYU_SIZE if "nyu" in name else (375, 1242)
    depth = np.zeros(image_hw, dtype=np.float32)
    if name != "spaceclip-nyu":
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


@pytest.mark.real
@pytest.mark.parametrize("name", list(PROTOCOLS))
def test_real_pairs_go_through(real_data: Path, name: str) -> None:
    protocol = get_protocol(name)
    if "kitti" in name:
        rgb, depth = (real_data / "kitti" / kind / "0000000050.png" for kind in ("rgb", "depth"))
    else:
        rgb, depth = real_data / "nyu_16bit/rgb/rgb_00050.jpg", real_data / "nyu_16bit/depth/sync_depth_00050.png"
    sample = DepthSample(read_rgb(rgb), read_depth_png(depth, units_per_metre=protocol.depth_scale), rgb.name)
    height, width = protocol.input_image(sample).shape[:2]
    assert (height, width) == protocol.crop_box(sample.depth_m.shape)[2:]
    median = float(np.median(sample.depth_m[sample.depth_m > 0]))
    constant = protocol.score(torch.full((14, 14), median), sample)
    assert 0.1 < constant.abs_rel < 0.8
    assert protocol.score(torch.full((14, 14), 2 * median), sample).abs_rel > constant.abs_rel


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
    with pytest.raises(DataError, match="no ground truth"):
        protocol.compared(first[None], sample_of(np.zeros((375, 1242))))
