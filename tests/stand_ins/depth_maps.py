"""Random predictions and sparse targets for the tests of the losses."""

from __future__ import annotations

import torch
from torch import Tensor


def batch(*size: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    target = 1 + 8 * torch.rand(*size, generator=generator, dtype=dtype)
    prediction = target * (0.7 + 0.6 * torch.rand(*size, generator=generator, dtype=dtype))
    valid = torch.rand(*size, generator=generator) > 0.3
    return prediction, target.masked_fill(~valid, 0), valid


def gradient_of(loss: Tensor, variable: Tensor) -> Tensor:
    return torch.autograd.grad(loss, variable)[0]
