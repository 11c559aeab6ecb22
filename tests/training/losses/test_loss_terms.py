from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from depth_maps import batch, gradient_of
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional

from spaceclip_plugin.errors import DataError
from spaceclip_plugin.training.losses.published import resized_as_published
from spaceclip_plugin.training.losses.terms import (
    abs_rel_loss,
    gradient_loss,
    log_gradient_loss,
    log_step_loss,
    silog_loss,
    ssim_loss,
    uncertainty_loss,
)

STRIDES = (1, 2, 4, 8)


def uncertainty_loss_of_a_tenth(prediction: Tensor, target: Tensor, *, valid: Tensor) -> Tensor:
    return uncertainty_loss(prediction, 0.1 * target.clamp_min(1.0), target, valid=valid)


ALL_LOSSES = (
    silog_loss,
    ssim_loss,
    gradient_loss,
    log_gradient_loss,
    abs_rel_loss,
    log_step_loss,
)


def dense_ssim_loss(prediction: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """SSIM as the definition reads: one 11x11 window, five convolutions, one sample after the other."""
    axis = torch.arange(11, dtype=prediction.dtype) - 5
    window = torch.exp(-(axis[:, None] ** 2 + axis[None] ** 2) / (2 * 1.5**2))
    window = (window / window.sum())[None, None]

    def blur(image: Tensor) -> Tensor:
        return functional.conv2d(image[None, None], window, padding=5)[0, 0]

    losses = []
    for d, g, mask in zip(prediction, target, valid, strict=True):
        if not mask.any():
            continue
        low, high = g[mask].min(), g[mask].max()
        x, y = ((d - low) / (high - low)).clamp(0, 1), ((g - low) / (high - low)).clamp(0, 1)
        mean_x, mean_y = blur(x), blur(y)
        var_x, var_y = blur(x * x) - mean_x**2, blur(y * y) - mean_y**2
        covariance = blur(x * y) - mean_x * mean_y
        luminance = (2 * mean_x * mean_y + 0.01**2) / (mean_x**2 + mean_y**2 + 0.01**2)
        structure = (2 * covariance + 0.03**2) / (var_x + var_y + 0.03**2)
        losses.append((1 - luminance * structure)[mask])
    return torch.cat(losses).mean()


@pytest.mark.real
@pytest.mark.parametrize("case", ["a", "b"])
@pytest.mark.parametrize(("name", "loss"), [("silog", silog_loss), ("ssim", ssim_loss), ("grad", gradient_loss)])
def test_equals_the_published_code(golden: Path, case: str, name: str, loss: object) -> None:
    data = load_file(golden / f"losses_metrics_{case}.safetensors")
    target, valid = data["gt"][:, 0], data["mask"][:, 0].bool()
    prediction = resized_as_published(data["pred"][:, 0], (target.shape[1], target.shape[2]))
    assert callable(loss)
    assert float(loss(prediction, target, valid=valid)) == pytest.approx(data[name].item(), rel=1e-5)


def test_silog_of_a_constant_ratio_is_its_mean_term() -> None:
    _, target, valid = batch(2, 6, 8)
    loss = silog_loss(2 * target, target, valid=valid)
    assert loss.item() == pytest.approx(10 * math.sqrt(0.15) * math.log(2))


def test_silog_worked_out_by_hand() -> None:
    target, valid = torch.ones(1, 1, 3), torch.tensor([[[True, True, False]]])
    prediction = torch.tensor([[[math.e, math.e**3, 1e6]]])  # g = 1, 3: mean 2, variance over n 1
    assert silog_loss(prediction, target, valid=valid).item() == pytest.approx(10 * math.sqrt(1 + 0.15 * 4))


def test_silog_of_a_perfect_prediction_is_the_published_floor() -> None:
    _, target, valid = batch(2, 6, 8)
    assert silog_loss(target, target, valid=valid).item() == pytest.approx(10 * math.sqrt(1e-7))


def test_gradient_worked_out_by_hand() -> None:
    target = torch.tensor([[[1.0, 2.0, 4.0], [1.0, 1.0, 9.0]]])
    prediction = torch.tensor([[[1.0, 5.0, 4.0], [2.0, 1.0, 1.0]]])
    valid = torch.tensor([[[True, True, True], [True, True, False]]])
    # Right: |4-1|, |-1-2|, |-1-0| -> 7/3. Down: |1-0|, |-4+1| -> 2. The pixel that is not valid pairs with none.
    assert gradient_loss(prediction, target, valid=valid).item() == pytest.approx(0.5 * (7 / 3 + 2))
    lonely = torch.zeros(1, 2, 3, dtype=torch.bool)
    lonely[0, 0, 0] = True
    assert gradient_loss(prediction, target, valid=lonely).item() == 0.0


def slow_log_gradient(prediction: Tensor, target: Tensor, valid: Tensor) -> float:
    """Pixel by pixel, as the definition reads."""
    batch_size, height, width = target.shape
    total = 0.0
    for stride in STRIDES:
        for step_y, step_x in ((0, stride), (stride, 0)):
            jumps = []
            for b in range(batch_size):
                for y in range(0, height - step_y, stride):
                    for x in range(0, width - step_x, stride):
                        here, there = (b, y, x), (b, y + step_y, x + step_x)
                        if valid[here] and valid[there]:
                            errors = [
                                math.log(prediction[at].item()) - math.log(target[at].item()) for at in (here, there)
                            ]
                            jumps.append(abs(errors[1] - errors[0]))
            total += stride * (sum(jumps) / len(jumps) if jumps else 0.0)
    return total


@pytest.mark.parametrize("size", [(2, 19, 23), (1, 5, 6), (3, 1, 9), (1, 1, 1)])
def test_log_gradient_pixel_by_pixel(size: tuple[int, int, int]) -> None:
    prediction, target, valid = batch(*size)
    valid[0, 0, 0], target[0, 0, 0] = True, 2.0
    expected = slow_log_gradient(prediction, target, valid)
    assert log_gradient_loss(prediction, target, valid=valid).item() == pytest.approx(expected, rel=1e-9)
    single = log_gradient_loss(prediction.float(), target.float(), valid=valid).item()
    assert single == pytest.approx(expected, rel=1e-4)


def test_log_gradient_of_sparse_targets() -> None:
    # One known pixel in twenty: pairs are few at every stride, and the mean is over those alone.
    prediction, target, _ = batch(2, 40, 40)
    valid = torch.rand(2, 40, 40, generator=torch.Generator().manual_seed(5)) < 0.05
    target = torch.where(valid, target.clamp_min(1.0), 0.0)
    expected = slow_log_gradient(prediction, target, valid)
    assert expected > 0.1
    assert log_gradient_loss(prediction, target, valid=valid).item() == pytest.approx(expected, rel=1e-9)
    lonely = torch.zeros_like(valid)
    lonely[0, 3, 3] = True
    assert log_gradient_loss(prediction, target.clamp_min(1.0), valid=lonely).item() == 0.0


@pytest.mark.parametrize("loss", [log_gradient_loss, log_step_loss])
def test_edges_are_blind_to_scale(loss: Callable[..., Tensor]) -> None:
    prediction, target, valid = batch(2, 12, 12)
    assert loss(3 * target, target, valid=valid).item() == pytest.approx(0, abs=1e-12)
    ours, scaled = (loss(k * prediction, target, valid=valid).item() for k in (1, 3))
    assert ours > 0.01
    assert scaled == pytest.approx(ours)


def slow_log_steps(prediction: Tensor, target: Tensor, valid: Tensor) -> float:
    """Pixel by pixel, as the definition reads."""
    error = [[[math.log(p / t) if t else 0.0 for p, t in zip(*rows, strict=True)] for rows in zip(*maps, strict=True)]
             for maps in zip(prediction.tolist(), target.tolist(), strict=True)]  # fmt: skip
    batch_size, height, width = target.shape
    total = 0.0
    for stride in (1, 2, 4):
        for step_y, step_x in ((0, stride), (stride, 0)):
            steps = [
                abs(error[b][y + step_y][x + step_x] - error[b][y][x])
                for b in range(batch_size)
                for y in range(height - step_y)
                for x in range(width - step_x)
                if valid[b, y, x] and valid[b, y + step_y, x + step_x]
            ]
            total += sum(steps) / len(steps) if steps else 0.0
    return total


@pytest.mark.parametrize("size", [(2, 13, 17), (1, 5, 6), (3, 1, 9), (1, 4, 4), (1, 1, 1)])
@pytest.mark.parametrize("known", [0.7, 0.05])
def test_log_steps_pixel_by_pixel(size: tuple[int, int, int], known: float) -> None:
    prediction, target, _ = batch(*size)
    valid = torch.rand(*size, generator=torch.Generator().manual_seed(5)) < known
    valid[0, 0, 0] = True
    target = torch.where(valid, target.clamp_min(1.0), 0.0)
    expected = slow_log_steps(prediction, target, valid)
    assert log_step_loss(prediction, target, valid=valid).item() == pytest.approx(expected, rel=1e-9)


def test_log_steps_see_an_edge_wherever_it_lies() -> None:
    # What is subsampled by eight does not tell an edge at column 9 from one at column 15.
    target = torch.ones(1, 8, 32)
    target[..., 20:] = 2.0
    values = []
    for column in (9, 12, 15):
        prediction = torch.ones(1, 8, 32)
        prediction[..., column:] = 2.0
        values.append(log_step_loss(prediction, target, valid=target > 0).item())
    assert values == pytest.approx([values[0]] * 3)
    assert values[0] > 0.1


def test_uncertainty_pixel_by_pixel() -> None:
    prediction, target, valid = batch(2, 7, 9)
    uncertainty = prediction * (0.05 + 0.4 * torch.rand(2, 7, 9, generator=torch.Generator().manual_seed(3)))
    likelihoods = []
    for d, u, t in zip(prediction[valid].tolist(), uncertainty[valid].tolist(), target[valid].tolist(), strict=True):
        b = u / d / math.sqrt(2)
        likelihoods.append(abs(math.log(d) - math.log(t)) / b + math.log(b))
    value = uncertainty_loss(prediction, uncertainty, target, valid=valid)
    assert value.item() == pytest.approx(sum(likelihoods) / len(likelihoods), rel=1e-6)


def test_uncertainty_is_least_at_the_standard_deviation_of_the_errors() -> None:
    _, target, valid = batch(1, 60, 60)
    sign = torch.where(torch.rand(1, 60, 60, generator=torch.Generator().manual_seed(1)) < 0.5, -1.0, 1.0)
    prediction = target.clamp_min(1.0) * torch.exp(0.2 * sign)  # |g| is 0.2 everywhere: b = 0.2, deviation 0.2 √2
    uncertainty = [prediction * k * 0.2 * math.sqrt(2) for k in (0.9, 1.0, 1.1)]
    low, best, high = (uncertainty_loss(prediction, u, target, valid=valid).item() for u in uncertainty)
    assert best == pytest.approx(1 + math.log(0.2))
    assert best < low
    assert best < high


def test_uncertainty_gives_no_gradient_to_the_depth() -> None:
    prediction, target, valid = batch(2, 7, 9)
    depth, uncertainty = prediction.clone().requires_grad_(), (0.1 * prediction).requires_grad_()
    value = uncertainty_loss(depth, uncertainty, target, valid=valid)
    of_depth, of_uncertainty = torch.autograd.grad(value, [depth, uncertainty], allow_unused=True)
    assert of_depth is None
    assert (of_uncertainty[valid] != 0).all()
    assert (of_uncertainty[~valid] == 0).all()
    assert torch.autograd.gradcheck(lambda u: uncertainty_loss(prediction, u, target, valid=valid), uncertainty)


def test_uncertainty_does_not_see_unknown_pixels() -> None:
    prediction, target, valid = batch(2, 7, 9)
    reference = uncertainty_loss(prediction, 0.1 * prediction, target, valid=valid).item()
    spoilt = prediction.masked_fill(~valid, math.nan)
    uncertainty = (0.1 * spoilt).requires_grad_()
    value = uncertainty_loss(spoilt, uncertainty, target, valid=valid)
    assert value.item() == pytest.approx(reference, rel=1e-12)
    assert torch.isfinite(gradient_of(value, uncertainty)).all()


def test_ssim_of_equal_maps_is_zero_and_of_others_not() -> None:
    _, target, valid = batch(2, 14, 18)
    assert ssim_loss(target, target, valid=valid).item() == pytest.approx(0, abs=1e-12)
    assert ssim_loss(target.flip(2), target, valid=valid).item() > 0.5


def test_ssim_has_the_value_and_gradient_of_the_dense_window() -> None:
    prediction, target, valid = batch(3, 23, 31)
    valid[1] = False  # a sample without ground truth in the middle
    prediction.requires_grad_()
    fast, dense = ssim_loss(prediction, target, valid=valid), dense_ssim_loss(prediction, target, valid)
    assert fast.item() == pytest.approx(dense.item(), rel=1e-12)
    ours, expected = gradient_of(fast, prediction), gradient_of(dense, prediction)
    assert expected.abs().max() > 1e-5
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-12)


def test_ssim_in_float32_stays_near_float64() -> None:
    prediction, target, valid = batch(2, 40, 40)
    single = prediction.float().requires_grad_()
    double = prediction.clone().requires_grad_()
    fast, dense = ssim_loss(single, target.float(), valid=valid), dense_ssim_loss(double, target, valid)
    assert fast.item() == pytest.approx(dense.item(), rel=1e-5)
    expected = gradient_of(dense, double)
    torch.testing.assert_close(gradient_of(fast, single).double(), expected, rtol=0, atol=1e-5 * expected.abs().max())


@pytest.mark.parametrize("loss", ALL_LOSSES)
def test_gradient_equals_finite_differences(loss: object) -> None:
    prediction, target, valid = batch(2, 5, 6, seed=3)
    assert callable(loss)
    prediction = prediction.clamp(target[valid].min() + 0.1, target[valid].max() - 0.1)  # away from the clamps of SSIM
    assert torch.autograd.gradcheck(lambda d: loss(d, target, valid=valid), prediction.requires_grad_())


@pytest.mark.parametrize("loss", ALL_LOSSES)
def test_predictions_where_nothing_is_known_do_not_leak(loss: object) -> None:
    # SILog and gradient read valid pixels only; the windows of SSIM may read neighbours, but no other sample.
    prediction, target, valid = batch(3, 12, 12)
    valid[1] = False
    assert callable(loss)
    reference = loss(prediction, target, valid=valid)
    spoilt = prediction.clone()
    spoilt[1] = math.nan
    if loss is not ssim_loss:
        spoilt[~valid] = math.nan
    spoilt.requires_grad_()
    value = loss(spoilt, target, valid=valid)
    assert value.item() == pytest.approx(reference.item(), rel=1e-12)
    gradient = gradient_of(value, spoilt)
    assert torch.isfinite(gradient).all()
    assert (gradient[1] == 0).all()


def test_a_flat_target_has_no_range_but_a_finite_loss() -> None:
    target, valid = torch.full((1, 12, 12), 2.0), torch.ones(1, 12, 12, dtype=torch.bool)
    depth = torch.full((1, 12, 12), 2.5, requires_grad=True)
    value = ssim_loss(depth, target, valid=valid)
    assert torch.isfinite(value)
    assert torch.isfinite(gradient_of(value, depth)).all()


@pytest.mark.parametrize("loss", [*ALL_LOSSES, uncertainty_loss_of_a_tenth])
def test_what_cannot_be_compared_is_refused(loss: object) -> None:
    prediction, target, valid = batch(2, 5, 6)
    assert callable(loss)
    with pytest.raises(DataError, match="no valid pixel in the whole batch"):
        loss(prediction, target, valid=torch.zeros_like(valid))
    with pytest.raises(DataError, match=r"got \(2, 5, 5\), \(2, 5, 6\), \(2, 5, 6\)"):
        loss(prediction[:, :, 1:], target, valid=valid)
    with pytest.raises(DataError, match=r"bool mask, got torch\.uint8"):
        loss(prediction, target, valid=valid.to(torch.uint8))


def test_abs_rel_is_the_metric_of_all_pixels() -> None:
    prediction, target, valid = batch(2, 9, 11)
    pairs = [
        (p, t) for p, t, known in zip(prediction.flatten(), target.flatten(), valid.flatten(), strict=True) if known
    ]
    expected = sum(abs(float(p) - float(t)) / float(t) for p, t in pairs) / len(pairs)
    assert abs_rel_loss(prediction, target, valid=valid).item() == pytest.approx(expected, rel=1e-12)
