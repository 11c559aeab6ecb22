"""Every registered loss keeps the trainer's contract."""

from __future__ import annotations

import pytest
import torch
from depth_maps import batch, gradient_of

from spaceclip_plugin.errors import DataError
from spaceclip_plugin.training.losses.published import PublishedLoss
from spaceclip_plugin.training.losses.registry import LOSSES
from spaceclip_plugin.training.losses.relative import RelativeLoss


def test_the_names() -> None:
    assert dict(LOSSES) == {"relative": RelativeLoss, "published": PublishedLoss}


@pytest.mark.parametrize("name", LOSSES)
def test_built_without_arguments_and_called_alike(name: str) -> None:
    prediction, target, valid = batch(2, 12, 16, dtype=torch.float32)
    depth = prediction[:, ::2, ::2].clone().requires_grad_()
    uncertainty = (0.2 * depth.detach()).requires_grad_()
    loss = LOSSES[name]()
    for given in (uncertainty, None):
        value = loss(depth, [depth], target_m=target, valid=valid, uncertainty_m=given)
        assert value.total.ndim == 0
        assert value.parts
        assert not any(part.requires_grad for part in value.parts.values())
        gradient = gradient_of(value.total, depth)
        assert torch.isfinite(gradient).all()
        assert gradient.abs().max() > 0
    assert LOSSES[name]()(depth, [], target_m=target, valid=valid).total.isfinite()


@pytest.mark.parametrize("name", LOSSES)
def test_nothing_to_learn_from_is_refused(name: str) -> None:
    prediction, target, valid = batch(2, 12, 16)
    with pytest.raises(DataError, match="no valid pixel in the whole batch"):
        LOSSES[name]()(prediction, [], target_m=target, valid=torch.zeros_like(valid))
