"""The loss of edges and surfaces: its weights, its resize, and what its uncertainty term may not do."""

from __future__ import annotations

import math

import pytest
import torch
from depth_maps import batch, gradient_of
from torch.nn import functional

from spaceclip_plugin.errors import ConfigError
from spaceclip_plugin.head.decoder import HeadOutput
from spaceclip_plugin.training.losses.normals import normals_loss
from spaceclip_plugin.training.losses.sharp import SharpLoss
from spaceclip_plugin.training.losses.terms import abs_log_loss, log_step_loss, uncertainty_loss


def test_the_weighted_sum() -> None:
    prediction, target, valid = batch(2, 20, 24)
    uncertainty = 0.1 * prediction.flip(1)
    value = SharpLoss(log=2.0)(HeadOutput(prediction, (9 * prediction,), uncertainty), target, valid=valid)
    log, steps, normals = (
        term(prediction, target, valid=valid).item() for term in (abs_log_loss, log_step_loss, normals_loss)
    )
    likelihood = uncertainty_loss(prediction, uncertainty, target, valid=valid).item()
    assert value.item() == pytest.approx(2 * log + 0.5 * steps + 0.1 * normals + likelihood)


def test_uncertainty_never_moves_the_depth() -> None:
    prediction, target, valid = batch(2, 12, 12)
    depth = prediction[:, ::2, ::2].clone().requires_grad_()
    factor = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    with_it = SharpLoss()(HeadOutput(depth, uncertainty_m=depth.detach() * factor), target, valid=valid)
    without = SharpLoss()(HeadOutput(depth), target, valid=valid)
    of_factor, of_depth = torch.autograd.grad(with_it, [factor, depth])
    assert of_factor.abs() > 0
    torch.testing.assert_close(of_depth, gradient_of(without, depth), rtol=1e-12, atol=0)


def test_resized_with_half_pixel_centres() -> None:
    prediction, target, valid = batch(2, 12, 16)
    small = prediction[:, :5, :7].contiguous()
    whole = functional.interpolate(small[:, None], (12, 16), mode="bilinear", align_corners=False)[:, 0]
    value = SharpLoss()(HeadOutput(small, uncertainty_m=0.1 * small), target, valid=valid)
    expected = SharpLoss()(HeadOutput(whole, uncertainty_m=0.1 * whole), target, valid=valid)
    assert value.item() == pytest.approx(expected.item(), rel=1e-12)


@pytest.mark.parametrize("step", [1, 2])
def test_half_precision_maps_are_compared_in_float32(step: int) -> None:
    prediction, target, valid = batch(1, 24, 24, dtype=torch.float32)
    rounded = prediction[:, ::step, ::step].bfloat16()
    expected = SharpLoss()(HeadOutput(rounded.float(), uncertainty_m=rounded.float() / 4), target, valid=valid)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = SharpLoss()(HeadOutput(rounded, uncertainty_m=rounded / 4), target, valid=valid)
    assert (value.dtype, value.item()) == (torch.float32, expected.item())


@pytest.mark.parametrize("start", ["zero", "perfect", "flat"])
def test_dead_relu_and_perfect_prediction_stay_finite(start: str) -> None:
    _, target, valid = batch(2, 12, 12, dtype=torch.float32)
    depth = {"zero": torch.zeros_like(target), "perfect": target.clone(), "flat": torch.full_like(target, 3.0)}[start]
    depth.requires_grad_()
    value = SharpLoss()(HeadOutput(depth), target, valid=valid)
    assert torch.isfinite(value)
    assert torch.isfinite(gradient_of(value, depth)).all()
    assert (value.item() == 0) == (start == "perfect")


@pytest.mark.parametrize(
    "weights",
    [{"log": -0.1}, {"normals": math.nan}, {"uncertainty": math.inf}, {"log": 0.0, "steps": 0.0, "normals": 0.0}],
)
def test_weights_that_cannot_be_are_refused(weights: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="loss weights must be"):
        SharpLoss(**weights)
