"""The digest of a module: the same for the same bits, another for any that moved."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from spaceclip_plugin._digest import module_digest, tensors_digest


class Small(nn.Module):
    """A parameter, a scalar, an empty tensor, and buffers persistent and not."""

    def __init__(self) -> None:
        super().__init__()
        random = torch.Generator().manual_seed(0)
        self.weight = nn.Parameter(torch.randn(3, 4, generator=random))
        self.scale = nn.Parameter(torch.tensor(0.5))
        self.empty = nn.Parameter(torch.empty(0, 4))
        self.register_buffer("steps", torch.tensor(7))
        self.register_buffer("mask", torch.tensor([True, False]), persistent=False)


def flip_lowest_bit(tensor: Tensor, index: int) -> None:
    tensor.detach().view(-1).view(torch.uint8)[index * tensor.element_size()] ^= 1


def test_it_is_the_sha256_of_names_dtypes_shapes_and_bytes() -> None:
    expected = hashlib.sha256(b"a\0torch.int16\0(2,)\0\x01\x00\x02\x00b\0torch.uint8\0()\0\x03")
    named = [("b", torch.tensor(3, dtype=torch.uint8)), ("a", torch.tensor([1, 2], dtype=torch.int16))]
    assert tensors_digest(named) == expected.hexdigest()


def test_equal_modules_have_equal_digests() -> None:
    assert module_digest(Small()) == module_digest(Small())


def test_it_is_of_the_values_not_of_how_they_lie_in_memory() -> None:
    plain, strided = Small(), Small()
    strided.weight.data = strided.weight.data.T.contiguous().T
    strided.eval().requires_grad_(False)
    assert not strided.weight.is_contiguous()
    assert module_digest(plain) == module_digest(strided)


def test_taking_it_changes_nothing() -> None:
    module = Small()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    version = module.weight._version
    module_digest(module)
    assert module.weight._version == version
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def rename(module: Small) -> None:
    module.weigth = module.weight
    del module.weight


CHANGES: dict[str, Callable[[Small], object]] = {
    "first bit of a parameter": lambda m: flip_lowest_bit(m.weight, 0),
    "last bit of a parameter": lambda m: flip_lowest_bit(m.weight, 11),
    "a scalar": lambda m: flip_lowest_bit(m.scale, 0),
    "a buffer": lambda m: m.steps.add_(1),
    "a buffer that is not saved": lambda m: m.mask.logical_not_(),
    "a name": rename,
    "a dtype": lambda m: setattr(m.steps, "data", m.steps.to(torch.int32)),
    "a shape": lambda m: setattr(m.weight, "data", m.weight.data.reshape(4, 3)),
    "the shape of an empty tensor": lambda m: setattr(m.empty, "data", torch.empty(4, 0)),
    "a tensor more": lambda m: m.register_buffer("more", torch.empty(0)),
    "a tensor less": lambda m: delattr(m, "empty"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_any_change_shows(change: Callable[[Small], object]) -> None:
    module = Small()
    before = module_digest(module)
    change(module)
    assert module_digest(module) != before


def test_zero_and_minus_zero_differ() -> None:
    assert tensors_digest([("a", torch.tensor(0.0))]) != tensors_digest([("a", torch.tensor(-0.0))])


def test_equal_bytes_of_another_dtype_differ() -> None:
    digests = {tensors_digest([("a", torch.zeros(2, dtype=dtype))]) for dtype in (torch.float32, torch.int32)}
    assert len(digests) == 2


@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float64, torch.float8_e4m3fn, torch.bool, torch.complex64]
)
def test_every_dtype_can_be_digested(dtype: torch.dtype) -> None:
    zeros, ones = torch.zeros(3).to(dtype), torch.ones(3).to(dtype)
    assert tensors_digest([("a", zeros)]) != tensors_digest([("a", ones)])
    assert tensors_digest([("a", zeros)]) == tensors_digest([("a", torch.zeros(3).to(dtype))])


def test_a_module_without_data_has_a_digest_of_its_shapes() -> None:
    on_meta = Small().to("meta")
    assert module_digest(on_meta) == module_digest(Small().to("meta"))
    assert module_digest(on_meta) != module_digest(Small())


def test_nothing_has_a_digest() -> None:
    assert module_digest(nn.Identity()) == hashlib.sha256(b"").hexdigest()
