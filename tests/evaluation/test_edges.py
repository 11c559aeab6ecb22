"""How sharp depth is: against a plain reading of the definitions, worked out by hand, and what must not matter."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from spaceclip_plugin.errors import DataError
from spaceclip_plugin.evaluation.contours import distance_px
from spaceclip_plugin.evaluation.edges import EdgeMetrics, edge_metrics

THRESHOLDS = [1.05 + 0.2 * i / 9 for i in range(10)]
Pixel = tuple[int, int]


def measured(prediction_m: Tensor, target_m: Tensor, valid: Tensor | None = None) -> EdgeMetrics:
    """Of an image that has edges."""
    metrics = edge_metrics(prediction_m, target_m, valid=torch.ones_like(target_m) > 0 if valid is None else valid)
    assert metrics is not None
    return metrics


def edge_at(column: int, *, far_m: float = 2.0, hw: Pixel = (32, 48)) -> Tensor:
    """A wall at 1 m to the left of a column, and one farther behind it."""
    depth_m = torch.ones(hw)
    depth_m[:, column:] = far_m
    return depth_m


def blurred(depth_m: Tensor, width: int) -> Tensor:
    padded = functional.pad(depth_m[None, None], (width // 2,) * 4, mode="replicate")
    return functional.avg_pool2d(padded, width, stride=1)[0, 0]


@st.composite
def images(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor]:
    """Prediction, truth and valid pixels: things of a few depths, in part predicted a pixel aside and too near."""
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    height, width = (draw(st.sampled_from([1, 4, 8, 13, 17])) for _ in range(2))
    truth = np.full((height, width), 3.0)
    for _ in range(draw(st.integers(0, 3))):
        top, left = generator.integers(0, height), generator.integers(0, width)
        truth[top : top + 5, left : left + 4] *= generator.uniform(0.5, 1.5)
    prediction = np.roll(truth, draw(st.integers(0, 2)), axis=draw(st.integers(0, 1)))
    prediction = prediction * generator.uniform(0.95, 1.05, truth.shape)
    valid = generator.random(truth.shape) < draw(st.sampled_from([0.7, 0.95, 1.0]))
    valid[0, 0] = True
    return torch.from_numpy(prediction), torch.from_numpy(truth), torch.from_numpy(valid)


class TestDefinition:
    """The same figures by loops over pixels."""

    def jumps(self, depth_m: np.ndarray, valid: np.ndarray) -> Iterator[tuple[Pixel, Pixel, float]]:
        """One pixel, its neighbour and the ratio of that one's depth to its own, of all neighbours."""
        height, width = depth_m.shape
        for y, x in np.ndindex(height, width):
            for v, u in ((y, x + 1), (y, x - 1), (y + 1, x), (y - 1, x)):
                if 0 <= v < height and 0 <= u < width and valid[y, x] and valid[v, u]:
                    yield (y, x), (v, u), depth_m[v, u] / depth_m[y, x]

    def expected(self, prediction: np.ndarray, truth: np.ndarray, valid: np.ndarray) -> EdgeMetrics | None:
        both = [list(self.jumps(depth_m, valid)) for depth_m in (prediction, truth)]
        contours = [{pixel for pixel, _, r in jumps if r > 1.1} for jumps in both]
        known = [(y, x) for y, x in np.ndindex(*truth.shape) if valid[y, x]]
        from_true = {pixel: min((math.dist(pixel, other) for other in contours[1]), default=99) for pixel in known}
        errors = {pixel: abs(prediction[pixel] / truth[pixel] - 1) for pixel in known}
        near = [errors[pixel] for pixel in known if from_true[pixel] <= 1]
        away = [errors[pixel] for pixel in known if from_true[pixel] > 1]
        if not near or not away:
            return None
        scores = []
        for t in THRESHOLDS:
            found, there = ({(a, b) for a, b, r in jumps if r > t} for jumps in both)
            if found | there:
                precision, recall = (len(found & there) / max(1, len(one)) for one in (found, there))
                f1 = 2 * precision * recall / (precision + recall) if found & there else 0.0
                scores.append((t, t * f1, t * precision, t * recall))
        weight, f1, precision, recall = (sum(column) for column in zip(*scores, strict=True))
        beside = [from_true[pixel] for pixel in contours[0] if from_true[pixel] < 10]
        missed = [min([10, *(math.dist(pixel, other) for other in contours[0])]) for pixel in contours[1]]
        means = (float(np.mean(values)) for values in (beside or [10], missed, near, away))
        return EdgeMetrics(f1 / weight, precision / weight, recall / weight, *means)

    @settings(max_examples=60, deadline=None)
    @given(images())
    def test_equals_a_plain_reading(self, image: tuple[Tensor, Tensor, Tensor]) -> None:
        prediction, truth, valid = image
        ours, expected = edge_metrics(prediction, truth, valid=valid), self.expected(*(m.numpy() for m in image))
        assert (ours is None) == (expected is None)
        if ours is not None and expected is not None:
            assert dataclasses.astuple(ours) == pytest.approx(dataclasses.astuple(expected), abs=1e-6)

    def test_a_known_figure(self) -> None:
        """Of another implementation, which weighs all ten ratios: both maps have jumps at each."""
        y, x = (np.minimum(place, 8) for place in np.mgrid[:14, :16])
        truth = 1 + (7 * y * y + 13 * x) % 11 / 7
        prediction = 1 + (7 * y * y + 13 * x + (x * y) % 3) % 11 / 7
        valid = np.ones((14, 16), bool)
        valid[3, 4:7] = False
        metrics = measured(*(torch.from_numpy(array) for array in (prediction, truth, valid)))
        assert metrics.boundary_f1 == pytest.approx(0.7156874234941802, abs=1e-12)


class TestByHand:
    def test_a_perfect_prediction(self) -> None:
        for truth in (edge_at(20), edge_at(20).T):  # of upright edges alone, and of level ones
            assert dataclasses.astuple(measured(truth, truth)) == (1, 1, 1, 0, 0, 0, 0)

    def test_a_jump_that_is_too_small_counts_up_to_its_ratio(self) -> None:
        metrics = measured(edge_at(20, far_m=1.15), edge_at(20))
        seen = sum(t for t in THRESHOLDS if t < 1.15) / sum(THRESHOLDS)
        assert dataclasses.astuple(metrics)[:3] == pytest.approx((seen, seen, seen))

    def test_a_ratio_at_which_neither_jumps_is_left_out(self) -> None:
        assert measured(edge_at(20, far_m=1.15), edge_at(20, far_m=1.15)).boundary_f1 == 1
        # Found at every ratio, there at the first five alone: half of what is found is right at none of the others.
        metrics = measured(edge_at(20), edge_at(20, far_m=1.15))
        there = sum(t for t in THRESHOLDS if t < 1.15) / sum(THRESHOLDS)
        assert (metrics.boundary_precision, metrics.boundary_recall) == pytest.approx((there, there))

    def test_false_edges_cost_precision_and_missed_ones_recall(self) -> None:
        truth = edge_at(20)
        more = truth.clone()
        more[:, 40:] = 4.0
        metrics = measured(more, truth)
        assert dataclasses.astuple(metrics)[:3] == pytest.approx((2 / 3, 1 / 2, 1))
        metrics = measured(truth, more)
        assert dataclasses.astuple(metrics)[:3] == pytest.approx((2 / 3, 1, 1 / 2))

    def test_a_jump_the_other_way_is_none(self) -> None:
        assert measured(3 - edge_at(20), edge_at(20)).boundary_f1 == 0

    @pytest.mark.parametrize("shift", [1, 4, 9])
    @pytest.mark.parametrize("turned", [False, True])
    def test_a_shifted_edge_is_as_far_as_it_is_shifted(self, shift: int, turned: bool) -> None:
        maps = [edge_at(20 + shift), edge_at(20)]
        metrics = measured(*(m.T if turned else m for m in maps))
        assert (metrics.edge_accuracy_px, metrics.edge_completeness_px) == (shift, shift)
        assert metrics.boundary_f1 == 0

    def test_no_edge_is_farther_than_ten_pixels(self) -> None:
        for prediction in (edge_at(30), edge_at(40), torch.ones(32, 48)):
            metrics = measured(prediction, edge_at(20))
            assert (metrics.edge_accuracy_px, metrics.edge_completeness_px) == (10, 10)
        both = edge_at(22)
        both[:, 44:] = 4.0  # far from any true edge: that is for precision to say
        assert measured(both, edge_at(20)).edge_accuracy_px == 2

    @pytest.mark.parametrize(("side", "reach"), [(20, 1), (112, 2), (224, 4)])
    def test_how_wide_the_band_at_an_edge_is(self, side: int, reach: int) -> None:
        truth = edge_at(12, hw=(side, side + 60))
        for column, near in ((11 - reach, True), (11 + reach, True), (10 - reach, False), (12 + reach, False)):
            prediction = truth.clone()
            prediction[:, column] *= 1.01
            metrics = measured(prediction, truth)
            assert (metrics.abs_rel_near > 0, metrics.abs_rel_away > 0) == (near, not near)
        assert measured(1.5 * truth, truth).abs_rel_near == pytest.approx(0.5)

    def test_the_more_blur_the_lower(self) -> None:
        """A ramp has less of a jump between any two pixels, and jumps in the wrong places."""
        truth = edge_at(24, far_m=3.0, hw=(40, 48))
        scores = [measured(blurred(truth, width), truth) for width in (1, 3, 5, 9, 15)]
        f1 = [score.boundary_f1 for score in scores]
        assert f1 == sorted(f1, reverse=True)
        recall = [score.boundary_recall for score in scores]
        assert recall == sorted(recall, reverse=True)
        assert recall[-1] < 0.5 < recall[0]


class TestWhatDoesNotMatter:
    @settings(max_examples=40, deadline=None)
    @given(images(), st.floats(0.01, 100))
    def test_the_scale_of_the_prediction(self, image: tuple[Tensor, Tensor, Tensor], scale: float) -> None:
        prediction, truth, valid = image
        one, other = (edge_metrics(factor * prediction, truth, valid=valid) for factor in (1, scale))
        if one is None or other is None:
            assert one is other is None
        else:
            assert dataclasses.astuple(one)[:5] == dataclasses.astuple(other)[:5]

    @settings(max_examples=40, deadline=None)
    @given(images(), st.sampled_from([0.0, -1.0, 1e9, math.nan, math.inf]))
    def test_what_stands_where_nothing_is_known(self, image: tuple[Tensor, Tensor, Tensor], value: float) -> None:
        prediction, truth, valid = image
        filled = [depth_m.masked_fill(~valid, value) for depth_m in (prediction, truth)]
        assert edge_metrics(*filled, valid=valid) == edge_metrics(prediction, truth, valid=valid)

    @settings(max_examples=40, deadline=None)
    @given(images())
    def test_how_the_image_is_turned(self, image: tuple[Tensor, Tensor, Tensor]) -> None:
        plain, turned, mirrored = (
            edge_metrics(*(change(m) for m in image[:2]), valid=change(image[2]))
            for change in (torch.clone, torch.t, torch.fliplr)
        )
        if plain is None or turned is None or mirrored is None:
            assert plain is turned is mirrored is None
        else:
            assert dataclasses.astuple(turned) == pytest.approx(dataclasses.astuple(plain))
            assert dataclasses.astuple(mirrored) == pytest.approx(dataclasses.astuple(plain))


class TestNoEdges:
    @pytest.mark.parametrize("far_m", [1.0, 1.04, 1.09])
    def test_truth_without_a_contour_has_no_figures(self, far_m: float) -> None:
        truth = edge_at(20, far_m=far_m)
        assert edge_metrics(edge_at(20), truth, valid=truth > 0) is None

    def test_an_edge_of_which_one_side_is_unknown_is_none(self) -> None:
        truth = edge_at(20)
        valid = truth > 0
        valid[:, 20] = False
        assert edge_metrics(truth, truth, valid=valid) is None

    def test_truth_that_is_nothing_but_contours_has_no_figures(self) -> None:
        truth = 1 + torch.arange(16.0).reshape(4, 4) % 2
        assert edge_metrics(truth, truth, valid=truth > 0) is None


def test_refuses_what_is_no_depth_but_only_where_it_counts() -> None:
    truth = edge_at(20)
    bad = truth.clone()
    bad[3, 3] = math.nan
    with pytest.raises(DataError, match="prediction has 1 of 1536 valid pixels"):
        edge_metrics(bad, truth, valid=truth > 0)
    with pytest.raises(DataError, match=r"one \(H, W\) shape"):
        edge_metrics(truth[1:], truth, valid=truth > 0)


@pytest.mark.parametrize("limit_px", [1, 4, 40])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.3])
def test_distance_to_the_nearest(limit_px: int, share: float) -> None:
    pixels = np.random.default_rng(0).random((17, 23)) < share
    expected = [
        min([limit_px, *(math.dist(pixel, other) for other in np.argwhere(pixels))]) for pixel in np.ndindex(17, 23)
    ]
    found = distance_px(torch.from_numpy(pixels), limit_px=limit_px)
    np.testing.assert_allclose(found.flatten().numpy(), expected, rtol=1e-6)
