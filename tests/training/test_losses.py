from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional

from spaceclip_plugin.errors import ConfigError, DataError
from spaceclip_plugin.training.losses import (
    LOSSES,
    PublishedLoss,
    gradient_loss,
    resized_as_published,
    silog_loss,
    ssim_loss,
)

ALL_LOSSES = (silog_loss, ssim_loss, gradient_loss)


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


def batch(*size: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    target = 1 + 8 * torch.rand(*size, generator=generator, dtype=dtype)
    prediction = target * (0.7 + 0.6 * torch.rand(*size, generator=generator, dtype=dtype))
    valid = torch.rand(*size, generator=generator) > 0.3
    return prediction, target.masked_fill(~valid, 0), valid


def gradient_of(loss: Tensor, variable: Tensor) -> Tensor:
    return torch.autograd.grad(loss, variable)[0]


@pytest.mark.real
@pytest.mark.parametrize("case", ["a", "b"])
@pytest.mark.parametrize(("name", "loss"), [("silog", silog_loss), ("ssim", ssim_loss), ("grad", gradient_loss)])
def test_equals_the_published_code(golden: Path, case: str, name: str, loss: object) -> None:
    data = load_file(golden / f"losses_metrics_{case}.safetensors")
    target, valid = data["gt"][:, 0], data["mask"][:, 0].bool()
    prediction = resized_as_published(data["pred"][:, 0], (target.shape[1], target.shape[2]))
    assert callable(loss)
    assert float(loss(prediction, target, valid=valid)) == pytest.approx(data[name].item(), rel=1e-5)


@pytest.mark.real
@pytest.mark.parametrize("case", ["a", "b"])
def test_the_recipe_on_golden_data(golden: Path, case: str) -> None:
    data = load_file(golden / f"losses_metrics_{case}.safetensors")
    depth, target, valid = data["pred"][:, 0], data["gt"][:, 0], data["mask"][:, 0].bool()
    value = PublishedLoss()(depth, [depth, depth, depth], target_m=target, valid=valid)
    silog, ssim = data["silog"].item(), data["ssim"].item()
    assert value.total.item() == pytest.approx(0.5 * silog + 0.5 * ssim + (0.10 + 0.05) * silog, rel=1e-5)
    assert list(value.parts) == ["silog", "ssim", "silog_aux0", "silog_aux1"]
    assert value.parts["ssim"].item() == pytest.approx(ssim, rel=1e-5)


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


def test_dead_relu_and_perfect_prediction_stay_finite() -> None:
    _, target, valid = batch(2, 12, 12)
    for start in (torch.zeros_like(target), target.clone(), torch.full_like(target, 3.0)):
        depth = start.requires_grad_()
        value = PublishedLoss(gradient=0.1)(depth, [depth], target_m=target, valid=valid).total
        assert torch.isfinite(value)
        assert torch.isfinite(gradient_of(value, depth)).all()


def test_a_flat_target_has_no_range_but_a_finite_loss() -> None:
    target, valid = torch.full((1, 12, 12), 2.0), torch.ones(1, 12, 12, dtype=torch.bool)
    depth = torch.full((1, 12, 12), 2.5, requires_grad=True)
    value = ssim_loss(depth, target, valid=valid)
    assert torch.isfinite(value)
    assert torch.isfinite(gradient_of(value, depth)).all()


def test_under_autocast_the_windows_stay_in_full_precision() -> None:
    prediction, target, valid = batch(1, 24, 24, dtype=torch.float32)
    expected = ssim_loss(prediction, target, valid=valid)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = PublishedLoss(silog=0, ssim=1)(prediction, [], target_m=target, valid=valid)
    assert value.total.dtype == torch.float32
    assert value.total.item() == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize("step", [1, 2])
def test_half_precision_maps_are_resized_and_compared_in_float32(step: int) -> None:
    prediction, target, valid = batch(1, 24, 24, dtype=torch.float32)
    rounded = prediction[:, ::step, ::step].bfloat16()
    value = PublishedLoss()(rounded, [], target_m=target, valid=valid).total
    expected = PublishedLoss()(rounded.float(), [], target_m=target, valid=valid).total
    assert (value.dtype, value.item()) == (torch.float32, expected.item())


def test_auxiliary_maps_of_weight_zero_are_not_touched() -> None:
    prediction, target, valid = batch(2, 12, 12)
    touched, untouched = prediction[:, ::2, ::2].clone().requires_grad_(), torch.full((2, 3), math.nan)
    loss = PublishedLoss(auxiliary=(0.2, 0.0))
    value = loss(prediction, [touched, untouched, untouched], target_m=target, valid=valid)  # one more than weights
    bare = loss(prediction, [], target_m=target, valid=valid)
    auxiliary = silog_loss(resized_as_published(touched, (12, 12)), target, valid=valid)
    assert value.total.item() == pytest.approx(bare.total.item() + 0.2 * auxiliary.item())
    assert gradient_of(value.total, touched).abs().max() > 0
    assert set(value.parts) - set(bare.parts) == {"silog_aux0"}


def test_main_terms_of_weight_zero_are_not_computed() -> None:
    prediction, target, valid = batch(2, 12, 12)
    value = PublishedLoss(silog=0.0, ssim=0.0, gradient=2.0)(prediction, [], target_m=target, valid=valid)
    assert list(value.parts) == ["gradient"]
    assert value.total.item() == pytest.approx(2 * gradient_loss(prediction, target, valid=valid).item())


def test_parts_are_for_the_log_and_hold_no_graph() -> None:
    prediction, target, valid = batch(2, 12, 12)
    value = PublishedLoss()(prediction.requires_grad_(), [prediction], target_m=target, valid=valid)
    assert value.total.requires_grad
    assert not any(part.requires_grad for part in value.parts.values())


def test_resize_aligns_corners_as_published() -> None:
    ramp = torch.tensor([[[0.0, 1.0, 2.0]]])
    torch.testing.assert_close(resized_as_published(ramp, (1, 5)), torch.tensor([[[0.0, 0.5, 1.0, 1.5, 2.0]]]))
    assert resized_as_published(ramp, (1, 3)) is ramp
    with pytest.raises(DataError, match=r"\(B, h, w\), got \(1, 1, 1, 3\)"):
        resized_as_published(ramp[None], (1, 5))


@pytest.mark.parametrize("loss", ALL_LOSSES)
def test_what_cannot_be_compared_is_refused(loss: object) -> None:
    prediction, target, valid = batch(2, 5, 6)
    assert callable(loss)
    with pytest.raises(DataError, match="no valid pixel in the whole batch"):
        loss(prediction, target, valid=torch.zeros_like(valid))
    with pytest.raises(DataError, match=r"got \(2, 5, 5\), \(2, 5, 6\), \(2, 5, 6\)"):
        loss(prediction[:, :, 1:], target, valid=valid)
    with pytest.raises(DataError, match=r"bool mask, got torch\.uint8"):
        loss(prediction, target, valid=valid.to(torch.uint8))


@pytest.mark.parametrize(
    "weights", [{"silog": -0.1}, {"ssim": math.nan}, {"auxiliary": (math.inf,)}, {"silog": 0.0, "ssim": 0.0}]
)
def test_weights_that_cannot_be_are_refused(weights: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="loss weights must be"):
        PublishedLoss(**weights)


def test_registered_losses_are_built_without_arguments_and_called_alike() -> None:
    assert LOSSES["published"] is PublishedLoss
    prediction, target, valid = batch(2, 12, 12)
    for build in LOSSES.values():
        value = build()(prediction, [prediction], target_m=target, valid=valid)
        assert value.total.ndim == 0
        assert value.parts
