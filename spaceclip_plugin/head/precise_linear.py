"""A linear layer that no precision of its surroundings rounds."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import linear


class PreciseLinear(nn.Linear):
    """A linear layer that computes in float32 at least, under autocast and in a head of half precision too.

    For what must be exact to a thousandth: half precision holds log depth at nine metres to 1.6 %.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(…, in) in any precision to (…, out) in float32 or float64."""
        dtype = torch.promote_types(x.dtype, torch.float32)
        with torch.autocast(x.device.type, enabled=False):
            return linear(x.to(dtype), self.weight.to(dtype), self.bias.to(dtype))
