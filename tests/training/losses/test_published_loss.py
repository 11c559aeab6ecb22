from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from depth_maps import batch, gradient_of
from safetensors.torch import load_file

from spaceclip_plugin.errors import ConfigError, DataError
from spaceclip_plugin.head.decoder import HeadOutput
from spaceclip_plugin.training.losses import published
from spaceclip_plugin.training.losses.published import PublishedLoss, resized_as_published
from spaceclip_plugin.training.losses.terms import gradient_loss, silog_loss, ssim_loss


@pytest.mark.real
@pytest.mark.parametrize("case", ["a", "b"])
def test_the_recipe_on_golden_data(golden: Path, case: str) -> None:
    data = load_file(golden / f"losses_metrics_{case}.safetensors")
    depth, target, valid = data["pred"][:, 0], data["gt"][:, 0], data["mask"][:, 0].bool()
    value = PublishedLoss()(HeadOutput(depth, (depth, depth, depth)), target, valid=valid)
    silog, ssim = data["silog"].item(), data["ssim"].item()
    assert value.item() == pytest.approx(0.5 * silog + 0.5 * ssim + (0.10 + 0.05) * silog, rel=1e-5)


def test_dead_relu_and_perfect_prediction_stay_finite() -> None:
    _, target, valid = batch(2, 12, 12)
    for start in (torch.zeros_like(target), target.clone(), torch.full_like(target, 3.0)):
        depth = start.requires_grad_()
        value = PublishedLoss(gradient=0.1)(HeadOutput(depth, (depth,)), target, valid=valid)
        assert torch.isfinite(value)
        assert torch.isfinite(gradient_of(value, depth)).all()


def test_under_autocast_the_windows_stay_in_full_precision() -> None:
    prediction, target, valid = batch(1, 24, 24, dtype=torch.float32)
    expected = ssim_loss(prediction, target, valid=valid)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = PublishedLoss(silog=0, ssim=1)(HeadOutput(prediction), target, valid=valid)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize("step", [1, 2])
def test_half_precision_maps_are_resized_and_compared_in_float32(step: int) -> None:
    prediction, target, valid = batch(1, 24, 24, dtype=torch.float32)
    rounded = prediction[:, ::step, ::step].bfloat16()
    value = PublishedLoss()(HeadOutput(rounded), target, valid=valid)
    expected = PublishedLoss()(HeadOutput(rounded.float()), target, valid=valid)
    assert (value.dtype, value.item()) == (torch.float32, expected.item())


def test_auxiliary_maps_of_weight_zero_are_not_touched() -> None:
    prediction, target, valid = batch(2, 12, 12)
    touched, untouched = prediction[:, ::2, ::2].clone().requires_grad_(), torch.full((2, 3), math.nan)
    loss = PublishedLoss(auxiliary=(0.2, 0.0))
    value = loss(HeadOutput(prediction, (touched, untouched, untouched)), target, valid=valid)  # one more than weights
    bare = loss(HeadOutput(prediction), target, valid=valid)
    auxiliary = silog_loss(resized_as_published(touched, (12, 12)), target, valid=valid)
    assert value.item() == pytest.approx(bare.item() + 0.2 * auxiliary.item())
    assert gradient_of(value, touched).abs().max() > 0


def test_main_terms_of_weight_zero_are_not_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("silog_loss", "ssim_loss"):
        monkeypatch.setattr(published, name, lambda *_, **__: pytest.fail("computed"))
    prediction, target, valid = batch(2, 12, 12)
    value = PublishedLoss(silog=0.0, ssim=0.0, gradient=2.0)(HeadOutput(prediction), target, valid=valid)
    assert value.item() == pytest.approx(2 * gradient_loss(prediction, target, valid=valid).item())


def test_resize_aligns_corners_as_published() -> None:
    ramp = torch.tensor([[[0.0, 1.0, 2.0]]])
    torch.testing.assert_close(resized_as_published(ramp, (1, 5)), torch.tensor([[[0.0, 0.5, 1.0, 1.5, 2.0]]]))
    assert resized_as_published(ramp, (1, 3)) is ramp
    with pytest.raises(DataError, match=r"\(B, h, w\), got \(1, 1, 1, 3\)"):
        resized_as_published(ramp[None], (1, 5))


@pytest.mark.parametrize(
    "weights", [{"silog": -0.1}, {"ssim": math.nan}, {"auxiliary": (math.inf,)}, {"silog": 0.0, "ssim": 0.0}]
)
def test_weights_that_cannot_be_are_refused(weights: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="loss weights must be"):
        PublishedLoss(**weights)
