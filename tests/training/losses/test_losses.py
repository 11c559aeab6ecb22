"""Every registered loss keeps the trainer's contract."""

from __future__ import annotations

import pytest
import torch
from depth_maps import batch, gradient_of

from spaceclip_plugin.errors import DataError
from spaceclip_plugin.head.decoder import HeadOutput
from spaceclip_plugin.training.losses import LOSSES, PublishedLoss, RelativeLoss, SharpLoss


def test_the_names() -> None:
    assert dict(LOSSES) == {"relative": RelativeLoss, "published": PublishedLoss, "sharp": SharpLoss}


@pytest.mark.parametrize("name", LOSSES)
def test_built_without_arguments_and_called_alike(name: str) -> None:
    prediction, target, valid = batch(2, 12, 16, dtype=torch.float32)
    depth = prediction[:, ::2, ::2].clone().requires_grad_()
    uncertainty = (0.2 * depth.detach()).requires_grad_()
    loss = LOSSES[name]()
    for given in (uncertainty, None):
        value = loss(HeadOutput(depth, (depth,), given), target, valid=valid)
        assert value.ndim == 0
        gradient = gradient_of(value, depth)
        assert torch.isfinite(gradient).all()
        assert gradient.abs().max() > 0
    value = loss(HeadOutput(depth, uncertainty_m=uncertainty), target, valid=valid)
    assert value.isfinite()
    taught = torch.autograd.grad(value, uncertainty, allow_unused=True)[0] is not None
    assert taught == loss.learns_uncertainty


@pytest.mark.parametrize("name", LOSSES)
def test_nothing_to_learn_from_is_refused(name: str) -> None:
    prediction, target, valid = batch(2, 12, 16)
    with pytest.raises(DataError, match="no valid pixel in the whole batch"):
        LOSSES[name]()(HeadOutput(prediction), target, valid=torch.zeros_like(valid))
