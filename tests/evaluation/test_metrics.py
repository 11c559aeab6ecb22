from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import hypothesis.extra.numpy as hypothesis_numpy
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from spaceclip_plugin.errors import DataError
from spaceclip_plugin.evaluation.metrics import (
    DepthMetrics,
    depth_metrics,
    mean_metrics,
    metrics_deviation,
    over_images,
)

GOLDEN_NAMES = {
    "abs_rel": "abs_rel",
    "sq_rel": "sq_rel",
    "rmse": "rmse",
    "rmse_log": "rmse_log",
    "log_10": "log10",
    "silog": "silog",
    "a1": "delta1",
    "a2": "delta2",
    "a3": "delta3",
}
EVERYWHERE = torch.ones(2, 2, dtype=torch.bool)


@pytest.mark.real
@pytest.mark.parametrize("case", ["a", "b"])
def test_equals_the_published_code(golden: Path, case: str) -> None:
    with safe_open(golden / f"losses_metrics_{case}.safetensors", "pt") as file:
        limits = json.loads(file.metadata()["case"])
        prediction = file.get_tensor("pred_resized_for_metrics").clamp(limits["min_depth"], limits["max_depth"])
        target, valid = file.get_tensor("gt"), file.get_tensor("mask").bool()
        expected = {ours: file.get_tensor(f"metric.{theirs}") for theirs, ours in GOLDEN_NAMES.items()}
    assert set(expected) == {field.name for field in dataclasses.fields(DepthMetrics)}
    for image in range(len(target)):
        ours = depth_metrics(prediction[image, 0], target[image, 0], valid=valid[image, 0])
        for name, values in expected.items():
            assert getattr(ours, name) == pytest.approx(float(values[image]), rel=1e-5), (image, name)


def test_values_worked_out_by_hand() -> None:
    prediction, target = torch.tensor([[1.0, 4.0], [9.0, 9.0]]), torch.tensor([[2.0, 2.0], [1.0, 1.0]])
    valid = torch.tensor([[True, True], [False, False]])
    ours = depth_metrics(prediction, target, valid=valid)
    # d = (1, 4), g = (2, 2): ratios 2 and 2, logs -ln 2 and +ln 2.
    assert ours.abs_rel == pytest.approx((0.5 + 1.0) / 2)
    assert ours.sq_rel == pytest.approx((0.5 + 2.0) / 2)
    assert ours.rmse == pytest.approx(math.sqrt((1 + 4) / 2))
    assert ours.rmse_log == pytest.approx(math.log(2))
    assert ours.log10 == pytest.approx(math.log10(2))
    assert ours.silog == pytest.approx(100 * math.log(2))
    assert (ours.delta1, ours.delta2, ours.delta3) == (0, 0, 0)


def test_delta_bounds_are_strict_and_in_both_directions() -> None:
    target = torch.ones(2, 2)
    ours = depth_metrics(torch.tensor([[1.25, 1.24], [1 / 1.24, 1 / 1.3]]), target, valid=EVERYWHERE)
    assert (ours.delta1, ours.delta2, ours.delta3) == (0.5, 1.0, 1.0)
    ours = depth_metrics(torch.tensor([[1.5624, 1.5626], [1.9531, 1.9532]]), target, valid=EVERYWHERE)
    assert (ours.delta1, ours.delta2, ours.delta3) == (0.0, 0.25, 0.75)


def test_one_valid_pixel_has_no_spread() -> None:
    valid = torch.tensor([[True, False], [False, False]])
    assert depth_metrics(torch.full((2, 2), 3.0), torch.full((2, 2), 2.0), valid=valid).silog == 0.0


def test_mean_counts_every_image_alike() -> None:
    first = DepthMetrics(*(float(i) for i in range(9)))
    second = DepthMetrics(*(float(2 * i + 1) for i in range(9)))
    assert mean_metrics([first, second]) == DepthMetrics(*((3 * i + 1) / 2 for i in range(9)))
    with pytest.raises(DataError, match="no image was scored"):
        mean_metrics([])


def test_spread_is_the_standard_deviation_of_a_sample_of_images() -> None:
    images = [DepthMetrics(*(k * v for k in range(1, 10))) for v in (1.0, 2.0, 6.0)]
    # Mean 3, deviations -2, -1 and 3: the squares' sum 14 over n - 1 = 2.
    spread = dataclasses.astuple(metrics_deviation(images))
    assert spread == pytest.approx([k * math.sqrt(7) for k in range(1, 10)])
    assert dataclasses.astuple(metrics_deviation(images[:1])) == (0.0,) * 9
    with pytest.raises(DataError, match="no image was scored"):
        metrics_deviation([])


def test_any_statistic_over_images() -> None:
    images = [DepthMetrics(*(k * v for k in range(1, 10))) for v in (2.0, 1.0, 6.0)]
    assert dataclasses.astuple(over_images(images, max)) == tuple(6.0 * k for k in range(1, 10))
    with pytest.raises(DataError, match="no image was scored"):
        over_images([], max)


@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan, math.inf])
@pytest.mark.parametrize("role", ["prediction", "target"])
def test_refuses_what_is_no_depth_but_only_inside_the_mask(bad: float, role: str) -> None:
    maps = {"prediction": torch.ones(2, 2), "target": torch.ones(2, 2)}
    maps[role][0, 1] = bad
    with pytest.raises(DataError, match=f"{role} has 1 of 4 valid pixels"):
        depth_metrics(maps["prediction"], maps["target"], valid=EVERYWHERE)
    outside = EVERYWHERE.clone()
    outside[0, 1] = False
    assert depth_metrics(maps["prediction"], maps["target"], valid=outside).rmse == 0.0


def test_refuses_empty_mask_other_shapes_and_other_types() -> None:
    ones = torch.ones(2, 2)
    with pytest.raises(DataError, match="no valid pixel"):
        depth_metrics(ones, ones, valid=~EVERYWHERE)
    with pytest.raises(DataError, match=r"\(2, 3\), \(2, 2\), \(2, 2\)"):
        depth_metrics(torch.ones(2, 3), ones, valid=EVERYWHERE)
    with pytest.raises(DataError, match=r"one \(H, W\) shape"):
        depth_metrics(ones[None], ones[None], valid=EVERYWHERE[None])
    with pytest.raises(DataError, match=r"bool mask, got torch\.float32"):
        depth_metrics(ones, ones, valid=ones)


depths = hypothesis_numpy.arrays(np.float64, (3, 4), elements=st.floats(0.1, 50.0))


@settings(max_examples=60, deadline=None)
@given(depths, depths, st.floats(0.5, 2.0))
def test_invariants(prediction: np.ndarray, target: np.ndarray, scale: float) -> None:
    d, g, valid = torch.from_numpy(prediction), torch.from_numpy(target), torch.ones(3, 4, dtype=torch.bool)
    ours, swapped = depth_metrics(d, g, valid=valid), depth_metrics(g, d, valid=valid)
    scaled, both = depth_metrics(scale * d, g, valid=valid), depth_metrics(scale * d, scale * g, valid=valid)
    assert scaled.silog == pytest.approx(ours.silog, abs=1e-6)  # blind to the scale of the prediction
    assert both.abs_rel == pytest.approx(ours.abs_rel)  # relative errors are blind to the unit,
    assert both.rmse == pytest.approx(scale * ours.rmse)  # absolute ones carry it
    for name in ("rmse", "rmse_log", "log10", "delta1", "delta2", "delta3"):
        assert getattr(swapped, name) == pytest.approx(getattr(ours, name))
    assert 0 <= ours.delta1 <= ours.delta2 <= ours.delta3 <= 1
    assert ours.silog <= 100 * ours.rmse_log + 1e-9  # a standard deviation never exceeds the root mean square
