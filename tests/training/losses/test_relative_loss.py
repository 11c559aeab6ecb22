"""The recommended loss: its weights, its resize, and what its uncertainty term may not do."""

from __future__ import annotations

import math

import pytest
import torch
from depth_maps import batch, gradient_of
from torch.nn import functional

from spaceclip_plugin.errors import ConfigError
from spaceclip_plugin.head.decoder import HeadOutput
from spaceclip_plugin.training.losses.relative import RelativeLoss
from spaceclip_plugin.training.losses.terms import abs_rel_loss, log_gradient_loss, silog_loss, uncertainty_loss


def test_the_weighted_sum() -> None:
    prediction, target, valid = batch(2, 20, 24)
    uncertainty = 0.1 * prediction.flip(1)
    value = RelativeLoss()(HeadOutput(prediction, uncertainty_m=uncertainty), target, valid=valid)
    silog = silog_loss(prediction, target, valid=valid).item()
    gradient = log_gradient_loss(prediction, target, valid=valid).item()
    likelihood = uncertainty_loss(prediction, uncertainty, target, valid=valid).item()
    abs_rel = abs_rel_loss(prediction, target, valid=valid).item()
    assert value.item() == pytest.approx(0.15 * silog + 1.5 * abs_rel + 0.1 * gradient + likelihood)


def test_without_uncertainty_its_term_is_left_out() -> None:
    prediction, target, valid = batch(2, 12, 12)
    output = HeadOutput(prediction, (prediction * 9,))
    value = RelativeLoss(silog=2.0, abs_rel=0.0, gradient=0.0)(output, target, valid=valid)
    assert value.item() == pytest.approx(2 * silog_loss(prediction, target, valid=valid).item())


def test_uncertainty_never_moves_the_depth() -> None:
    # One map that depth and uncertainty both come from, as careless decoders have it.
    prediction, target, valid = batch(2, 12, 12)
    depth = prediction[:, ::2, ::2].clone().requires_grad_()
    factor = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    loss = RelativeLoss()
    with_it = loss(HeadOutput(depth, uncertainty_m=depth.detach() * factor), target, valid=valid)
    without = loss(HeadOutput(depth), target, valid=valid)
    of_factor, of_depth = torch.autograd.grad(with_it, [factor, depth])
    assert of_factor.abs() > 0
    torch.testing.assert_close(of_depth, gradient_of(without, depth), rtol=1e-12, atol=0)


def test_resized_with_half_pixel_centres() -> None:
    prediction, target, valid = batch(2, 12, 16)
    small, spread = prediction[:, :5, :7].contiguous(), prediction[:, 5:10, :7].contiguous() * 0.1
    depth, uncertainty = (
        functional.interpolate(values[:, None], (12, 16), mode="bilinear", align_corners=False)[:, 0]
        for values in (small, spread)
    )
    value = RelativeLoss()(HeadOutput(small, uncertainty_m=spread), target, valid=valid)
    expected = RelativeLoss()(HeadOutput(depth, uncertainty_m=uncertainty), target, valid=valid)
    assert value.item() == pytest.approx(expected.item(), rel=1e-12)


@pytest.mark.parametrize("step", [1, 2])
def test_half_precision_maps_are_compared_in_float32(step: int) -> None:
    prediction, target, valid = batch(1, 24, 24, dtype=torch.float32)
    rounded = prediction[:, ::step, ::step].bfloat16()
    loss = RelativeLoss()
    value = loss(HeadOutput(rounded, uncertainty_m=rounded / 4), target, valid=valid)
    expected = loss(HeadOutput(rounded.float(), uncertainty_m=rounded.float() / 4), target, valid=valid)
    assert (value.dtype, value.item()) == (torch.float32, expected.item())


@pytest.mark.parametrize("start", ["zero", "perfect", "flat"])
def test_dead_relu_and_perfect_prediction_stay_finite(start: str) -> None:
    _, target, valid = batch(2, 12, 12, dtype=torch.float32)
    depth = {"zero": torch.zeros_like(target), "perfect": target.clone(), "flat": torch.full_like(target, 3.0)}[start]
    uncertainty = torch.zeros_like(target) if start == "zero" else torch.full_like(target, 1e-9)
    depth.requires_grad_()
    uncertainty.requires_grad_()
    value = RelativeLoss()(HeadOutput(depth, uncertainty_m=uncertainty), target, valid=valid)
    assert torch.isfinite(value)
    for gradient in torch.autograd.grad(value, [depth, uncertainty]):
        assert torch.isfinite(gradient).all()


@pytest.mark.parametrize(
    "weights",
    [
        {"silog": -0.1},
        {"gradient": math.nan},
        {"uncertainty": math.inf},
        {"silog": 0.0, "abs_rel": 0.0, "gradient": 0.0},
    ],
)
def test_weights_that_cannot_be_are_refused(weights: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="loss weights must be"):
        RelativeLoss(**weights)
