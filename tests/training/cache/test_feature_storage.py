"""What is packed comes back as near as its precision says."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from spaceclip_plugin.errors import TrainingError
from spaceclip_plugin.training.cache.storage import STORAGES, Half, TokenInt8


@pytest.mark.parametrize("name", sorted(STORAGES))
def test_every_storage_keeps_shapes_and_zeros(name: str) -> None:
    storage = STORAGES[name]
    values = torch.randn(2, 3, 4, 8, generator=torch.Generator().manual_seed(0))
    values[0, 1, 2] = 0
    parts = storage.pack(values)
    assert all(part.shape[:3] == (2, 3, 4) for part in parts.values())
    back = storage.unpack(parts)
    assert (back.shape, back.dtype) == (values.shape, torch.float32)
    assert torch.equal(back[0, 1, 2], values[0, 1, 2])
    assert (back - values).abs().max() < 0.02 * values.abs().max()
    # A row read alone is the row of the whole: shards are read row by row.
    rows = storage.unpack({suffix: part[1, 2] for suffix, part in parts.items()})
    assert torch.equal(rows, back[1, 2])


def test_half_is_half_the_bytes_and_exact_for_half_values() -> None:
    values = torch.randn(5, 6, 7).half()
    [part] = Half().pack(values.float()).values()
    assert part.dtype == torch.float16
    assert torch.equal(Half().unpack({"": part}), values.float())


def test_half_refuses_what_it_cannot_hold() -> None:
    with pytest.raises(TrainingError, match=r"7e\+04 exceeds what float16 holds"):
        Half().pack(torch.tensor([[1.0, -7e4]]))


@given(st.floats(1e-30, 1e30), st.integers(0, 1000))
def test_int8_errs_by_half_a_step_of_its_own_token(size: float, seed: int) -> None:
    values = torch.randn(4, 16, generator=torch.Generator().manual_seed(seed))
    values[0] *= 1e4  # a token of large values beside small ones
    values = values * size
    parts = TokenInt8().pack(values)
    assert parts[""].dtype == torch.int8
    assert parts[".scale"].shape == (4,)
    error = (TokenInt8().unpack(parts) - values).abs().amax(dim=-1)
    assert (error <= values.abs().amax(dim=-1) / 253).all()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_int8_refuses_what_has_no_size(bad: float) -> None:
    with pytest.raises(TrainingError, match="NaN or infinite"):
        TokenInt8().pack(torch.tensor([[1.0, bad]]))
