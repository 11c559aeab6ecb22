"""The loss of edges: what it adds to that of relative errors."""

from __future__ import annotations

import math

import pytest
from depth_maps import batch

from spaceclip_plugin.errors import ConfigError
from spaceclip_plugin.head.decoder import HeadOutput
from spaceclip_plugin.training.losses.relative import RelativeLoss
from spaceclip_plugin.training.losses.sharp import SharpLoss
from spaceclip_plugin.training.losses.terms import log_step_loss


def test_it_is_that_of_relative_errors_and_the_steps() -> None:
    prediction, target, valid = batch(2, 20, 24)
    output = HeadOutput(prediction, (9 * prediction,), 0.1 * prediction.flip(1))
    steps = log_step_loss(prediction, target, valid=valid).item()
    plain = RelativeLoss()(output, target, valid=valid).item()
    assert steps > 0
    assert SharpLoss()(output, target, valid=valid).item() == pytest.approx(plain + 0.5 * steps)
    assert RelativeLoss(steps=2.0)(output, target, valid=valid).item() == pytest.approx(plain + 2 * steps)


def test_steps_alone_are_a_loss_of_depth() -> None:
    prediction, target, valid = batch(1, 12, 12)
    alone = SharpLoss(silog=0.0, abs_rel=0.0, gradient=0.0)(HeadOutput(prediction), target, valid=valid)
    assert alone.item() == pytest.approx(0.5 * log_step_loss(prediction, target, valid=valid).item())


@pytest.mark.parametrize(
    "weights",
    [{"steps": -0.1}, {"steps": math.nan}, {"silog": 0.0, "abs_rel": 0.0, "gradient": 0.0, "steps": 0.0}],
)
def test_weights_that_cannot_be_are_refused(weights: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="loss weights must be"):
        SharpLoss(**weights)
