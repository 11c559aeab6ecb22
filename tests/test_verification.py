"""Equality of bits, not of values."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
from torch import nn

from spaceclip_plugin.verification import buffers_kept, compare, same_bits

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_bits(dtype: torch.dtype) -> None:
    value = torch.tensor([1.0, NAN, -0.0, INF], dtype=dtype)
    assert same_bits(value, value.clone())
    assert not same_bits(value, torch.tensor([1.0, NAN, 0.0, INF], dtype=dtype))
    assert same_bits(value[0], value[0].clone())
    assert same_bits(value.reshape(2, 2).T, value.reshape(2, 2).T.contiguous())


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (torch.zeros(2), torch.zeros(3)),
        (torch.zeros(2), torch.zeros(2, dtype=torch.float64)),
        (torch.tensor([1, 2]), torch.tensor([1, 3])),
        (torch.tensor([True]), torch.tensor([False])),
    ],
)
def test_what_differs(a: torch.Tensor, b: torch.Tensor) -> None:
    assert not same_bits(a, b)
    assert not compare([a], [b])[0]


def test_nested_outputs() -> None:
    a, b = torch.zeros(2), torch.ones(3)
    output = OrderedDict(logits=a, states=(b, [b, None]), text="x")
    assert compare(output, output) == (True, 0.0, 3)
    changed = OrderedDict(logits=a, states=(b, [b + 0.25, None]), text="x")
    assert compare(output, changed) == (False, 0.25, 3)
    assert compare(output, {"logits": a}) == (False, INF, 3)


def test_nan_against_a_number_is_no_equality() -> None:
    identical, _, _ = compare([torch.tensor([NAN])], [torch.tensor([1.0])])
    assert not identical


def test_running_statistics_are_given_back() -> None:
    host = nn.BatchNorm1d(3).train()
    with buffers_kept(host):
        host(torch.randn(8, 3))
        assert host.num_batches_tracked == 1
    assert host.num_batches_tracked == 0
    assert torch.equal(host.running_mean, torch.zeros(3))
