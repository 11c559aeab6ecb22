"""The layers of a graft: no biases, norms without a shift, and a null token, so that an empty bank adds nothing."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, scaled_dot_product_attention

from spaceclip_plugin.graft.bank import PLACE_FEATURES, Bank
from spaceclip_plugin.graft.config import HEAD_WIDTH, GraftConfig

_TINY = 1e-6


class BankEncoder(nn.Module):
    """Makes tokens of a bank's cells."""

    def __init__(self, config: GraftConfig) -> None:
        super().__init__()
        self.look = nn.Linear(config.look_width, config.width, bias=False)
        self.place = nn.Linear(PLACE_FEATURES, config.width, bias=False)
        self.camera = nn.Parameter(torch.empty(len(config.cameras), config.width).normal_(std=0.02))

    def forward(self, bank: Bank) -> Tensor:
        """(B, N, width); of cells without depth they mean nothing, and no layer reads them."""
        tokens = self.look(bank.look) + self.place(bank.place) + self.camera[bank.camera]
        return _normed(tokens)


class GraftLayer(nn.Module):
    """Reads the bank from the stream that goes into one block, by cross-attention, for what is added to its output."""

    def __init__(self, widths: tuple[int, int], width: int) -> None:
        super().__init__()
        self.query = nn.Linear(widths[0], width, bias=False)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width, bias=False)
        self.out = nn.Linear(width, widths[1], bias=False)
        nn.init.zeros_(self.out.weight)  # the host is what it was until training opens it

    def keys_and_values(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """(B, heads, 1 + N, 32) each; the first, of zeros, draws attention where nothing else does."""
        with_null = pad(tokens, (0, 0, 1, 0))
        return _split(self.key(with_null)), _split(self.value(with_null))

    def forward(self, stream: Tensor, keys: Tensor, values: Tensor, valid: Tensor) -> Tensor:
        """What is added, (B, S, out), to the output for a stream (B, S, in)."""
        read = scaled_dot_product_attention(self._queries(stream), keys, values, attn_mask=_mask(valid))
        added: Tensor = self.out(read.transpose(1, 2).flatten(2))
        return added

    def shares(self, stream: Tensor, keys: Tensor, valid: Tensor) -> Tensor:
        """(B, 1 + N) of its attention that the null token and each cell draw, over all positions and heads."""
        scores = self._queries(stream) @ keys.mT / math.sqrt(HEAD_WIDTH)
        return scores.masked_fill(~_mask(valid), -math.inf).softmax(dim=-1).mean(dim=(1, 2))

    def _queries(self, stream: Tensor) -> Tensor:
        return _split(self.query(_normed(stream)))


def add_exactly(output: Tensor, added: Tensor) -> Tensor:
    """Their sum; where nothing is added the output keeps its bits, which -0.0 + 0.0 would not."""
    result: Tensor = _AddExactly.apply(output, added)
    return result


class _AddExactly(torch.autograd.Function):
    @staticmethod
    def forward(_ctx: Any, output: Tensor, added: Tensor) -> Tensor:
        return torch.where(added == 0, output, output + added)

    @staticmethod
    def backward(_ctx: Any, *gradients: Any) -> Any:
        return gradients[0], gradients[0]  # of the sum: a matrix of zeros could not learn through `where`


def _mask(valid: Tensor) -> Tensor:
    """(B, 1, 1, 1 + N): the null token is read by all."""
    return pad(valid, (1, 0), value=True)[:, None, None]


def _normed(values: Tensor) -> Tensor:
    return values * torch.rsqrt(values.square().mean(dim=-1, keepdim=True) + _TINY)


def _split(values: Tensor) -> Tensor:
    """(B, N, width) by attention heads."""
    return values.reshape(*values.shape[:2], -1, HEAD_WIDTH).transpose(1, 2)
