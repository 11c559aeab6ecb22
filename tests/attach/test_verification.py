"""Equality of bits, not of values."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict

import numpy as np
import pytest
import torch
from torch import nn

from spaceclip_plugin.attach.verification import compare, same_bits, tensors_in
from spaceclip_plugin.towers.module_state import buffers_kept

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


@dataclasses.dataclass
class Output:
    action: torch.Tensor
    note: str
    score: float


def test_nested_outputs() -> None:
    a, b = torch.zeros(2), torch.ones(3)
    output = OrderedDict(logits=a, states=(b, [b, None]), text="x", own=Output(a, "y", 0.5), array=np.ones(2))
    found = list(tensors_in(output))
    assert len(found) == 6
    assert compare(found, found) == (True, 0.0)
    changed = [*found[:2], b + 0.25, *found[3:]]
    assert compare(found, changed) == (False, 0.25)
    assert compare(found, found[:1]) == (False, INF)
    assert list(tensors_in("text")) == []


def test_nan_against_a_number_is_no_equality() -> None:
    identical, _ = compare([torch.tensor([NAN])], [torch.tensor([1.0])])
    assert not identical


def test_running_statistics_are_given_back() -> None:
    norm = nn.BatchNorm1d(3).train()
    host = nn.Sequential(norm)
    host.training = False  # in eval mode but for one part
    with buffers_kept(host):
        host(torch.randn(8, 3))
        assert norm.num_batches_tracked == 1
    assert norm.num_batches_tracked == 0
    assert torch.equal(norm.running_mean, torch.zeros(3))
