"""Intervals hold what they promise, and the factor is found, on errors whose spread is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from spaceclip_plugin.errors import ConfigError, DataError
from spaceclip_plugin.evaluation.calibration import (
    LEVELS,
    calibrate,
    calibration_factor,
    coverage,
    interval_factor,
    mean_coverage,
    normalised_residuals,
)


def laplace(factor: float, images: int = 20, pixels: int = 4000, seed: int = 0) -> list[np.ndarray]:
    """Residuals of a head that claims 1 / factor of its true standard deviation."""
    generator = np.random.default_rng(seed)
    return [np.abs(generator.laplace(0, factor / math.sqrt(2), pixels)) for _ in range(images)]


@pytest.mark.parametrize("level", [0.1, 0.5, 0.9, 0.99])
def test_intervals_hold_their_share_of_laplace_errors(level: float) -> None:
    samples = np.random.default_rng(1).laplace(0, 1.0, 400_000)
    assert samples.std() == pytest.approx(math.sqrt(2), rel=0.01)
    share = coverage(np.abs(samples) / math.sqrt(2), level)  # in standard deviations
    assert share == pytest.approx(level, abs=3e-3)


def test_interval_factors_by_hand() -> None:
    assert interval_factor(0.5) == pytest.approx(0.490129)
    assert interval_factor(0.9) == pytest.approx(1.628173)
    for level in (0.0, 1.0, math.nan):
        with pytest.raises(ConfigError, match="between 0 and 1"):
            interval_factor(level)


def test_coverage_counts_the_edge() -> None:
    edge = interval_factor(0.5)
    assert coverage(np.array([0.0, edge, edge * 1.001, 9.0]), 0.5) == 0.5


def test_residuals_pixel_by_pixel() -> None:
    generator = torch.Generator().manual_seed(0)
    depth, target, share = (0.5 + torch.rand(3, 9, 11, generator=generator)).unbind()
    valid = torch.rand(9, 11, generator=generator) < 0.6
    expected = [
        abs(math.log(d) - math.log(t)) / (u / d)
        for d, u, t in zip(depth[valid].tolist(), (share * depth)[valid].tolist(), target[valid].tolist(), strict=True)
    ]
    residuals = normalised_residuals(depth, share * depth, target, valid=valid)
    assert residuals.dtype == np.float64
    np.testing.assert_allclose(residuals, expected, rtol=1e-5)
    few = normalised_residuals(depth, share * depth, target, valid=valid, max_pixels=20)
    assert len(few) == 20
    assert len(np.intersect1d(few, residuals)) == 20
    assert np.array_equal(normalised_residuals(depth, share * depth, target, valid=valid, max_pixels=20), few)
    assert np.array_equal(normalised_residuals(depth, share * depth, target, valid=valid, max_pixels=10_000), residuals)


def test_residuals_of_certainty_and_of_no_depth_are_finite() -> None:
    depth, target = torch.tensor([[0.0, 2.0, 2.0]]), torch.tensor([[1.0, 2.0, 3.0]])
    residuals = normalised_residuals(depth, torch.zeros(1, 3), target, valid=torch.ones(1, 3, dtype=torch.bool))
    assert np.isfinite(residuals).all()
    assert residuals[1] == 0.0
    assert min(residuals[0], residuals[2]) > 1e3


def test_maps_that_do_not_fit_are_refused() -> None:
    depth, valid = torch.ones(2, 3), torch.ones(2, 3, dtype=torch.bool)
    with pytest.raises(DataError, match=r"got \(2, 3\), \(2, 2\), \(2, 3\), \(2, 3\)"):
        normalised_residuals(depth, depth[:, :2], depth, valid=valid)
    with pytest.raises(DataError, match="with 0 valid pixels"):
        normalised_residuals(depth, depth, depth, valid=~valid)
    for function in (calibrate, calibration_factor, lambda images: mean_coverage(images, 0.5)):
        with pytest.raises(DataError, match="no image"):
            function([])


@pytest.mark.parametrize("factor", [0.02, 0.4, 1.0, 3.7, 250.0])
def test_a_known_factor_is_found(factor: float) -> None:
    assert calibration_factor(laplace(factor)) == pytest.approx(factor, rel=0.01)
    calibration = calibrate(laplace(factor))
    assert calibration.factor == calibration_factor(laplace(factor))
    assert calibration.images == 20
    for level in LEVELS:
        assert calibration.after[level] == pytest.approx(level, abs=0.01)
        assert calibration.cross_checked is not None
        assert calibration.cross_checked[level] == pytest.approx(level, abs=0.01)
        true_before = 1 - (1 - level) ** (1 / factor)
        assert calibration.before[level] == pytest.approx(true_before, abs=0.01)


def test_the_factor_is_the_best_of_a_fine_grid() -> None:
    # Errors that no single factor makes right: half the pixels err little, half a lot.
    images = [np.concatenate([near, 8 * far]) for near, far in zip(laplace(1.0), laplace(1.0, seed=1), strict=True)]

    def error(factor: float) -> float:
        return sum((mean_coverage(images, level, factor=factor) - level) ** 2 for level in LEVELS)

    grid = np.geomspace(0.1, 30, 600)
    best = grid[np.argmin([error(factor) for factor in grid])]
    factor = calibration_factor(images)
    assert factor == pytest.approx(best, rel=0.02)
    assert error(factor) <= error(best) + 1e-6
    assert error(factor) < min(error(factor * 0.8), error(factor * 1.25))


def test_images_weigh_alike() -> None:
    # Nine in ten pixels are of one image, which is one of four.
    few, many = laplace(1.0, images=3, pixels=500), laplace(6.0, images=1, pixels=13_500)
    repeated = [np.tile(image, 27) for image in few]
    assert calibration_factor([*few, *many]) == pytest.approx(calibration_factor([*repeated, *many]), rel=1e-2)
    pooled = calibration_factor([np.concatenate([*few, *many])])
    assert pooled > 2 * calibration_factor([*few, *many])
    assert mean_coverage([np.zeros(1), np.full(99, 9.0)], 0.5) == 0.5


def test_outliers_hardly_move_the_factor() -> None:
    images = laplace(2.0)
    spoilt = [np.concatenate([image, np.full(40, 1e9)]) for image in images]  # one pixel in a hundred
    assert calibration_factor(spoilt) == pytest.approx(calibration_factor(images), rel=0.06)


def test_cross_checking_tells_halves_apart() -> None:
    # The first half is right, the second claims a tenth: what fits one half says little of the other.
    images = [*laplace(1.0), *laplace(10.0, seed=2)]
    calibration = calibrate(images)
    assert calibration.cross_checked is not None
    for level in LEVELS:
        second_with_first = 1 - (1 - level) ** (1 / 10)  # factor 1 on errors of ten
        first_with_second = 1 - (1 - level) ** 10
        expected = (second_with_first + first_with_second) / 2
        assert calibration.cross_checked[level] == pytest.approx(expected, abs=0.01)


def test_a_single_image_cannot_be_cross_checked() -> None:
    assert calibrate(laplace(2.0, images=1)).cross_checked is None


@pytest.mark.parametrize("value", [0.0, 1e-3, 5.0])
def test_errors_of_one_size(value: float) -> None:
    calibration = calibrate([np.full(10, value), np.full(7, value)])
    assert math.isfinite(calibration.factor)
    assert calibration.factor > 0


class TestWidening:
    """What is added to the uncertainty of strange images, whatever the factor."""

    def test_none_of_it_changes_nothing(self) -> None:
        images = laplace(2.0)
        plain, widened = calibrate(images), calibrate(images, widening=[np.zeros_like(image) for image in images])
        assert widened == plain

    @pytest.mark.parametrize("factor", [0.7, 3.0])
    def test_the_factor_is_that_of_the_heads_own_part(self, factor: float) -> None:
        """Errors as wide as the head's own part times the factor, and the widening, together."""
        wider = [np.full(3000, 2.0 * (number % 2)) for number in range(20)]
        unit = laplace(1.0, images=20, pixels=3000)
        images = [one * np.hypot(factor, width) for one, width in zip(unit, wider, strict=True)]
        calibration = calibrate(images, widening=wider)
        assert calibration.factor == pytest.approx(factor, rel=0.05)
        for level in LEVELS:
            assert calibration.after[level] == pytest.approx(level, abs=0.01)
            assert calibration.cross_checked[level] == pytest.approx(level, abs=0.02)
            assert calibration.before[level] == mean_coverage(images, level, widening=wider)

    def test_it_is_the_best_of_a_fine_grid(self) -> None:
        images, wider = laplace(1.5), [np.full(1000, 0.3 * (number % 4)) for number in range(20)]
        wider = [width[: len(image)] for width, image in zip(wider, images, strict=True)]
        images = [image[: len(width)] for width, image in zip(wider, images, strict=True)]

        def error(factor: float) -> float:
            return sum((mean_coverage(images, level, factor=factor, widening=wider) - level) ** 2 for level in LEVELS)

        grid = np.geomspace(calibration_factor(images) / 2, 10, 600)
        assert error(calibration_factor(images, widening=wider)) <= min(map(error, grid)) + 1e-6

    def test_strange_images_do_not_make_the_head_sure(self) -> None:
        images = laplace(1.0)
        wider = [np.full_like(image, 50.0) for image in images]
        assert calibration_factor(images, widening=wider) == pytest.approx(0.5 * calibration_factor(images))
