"""Winograd's convolution: the direct one's values in every size and precision, in fewer products where it pays."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import conv2d
from torch.utils.flop_counter import FlopCounterMode

from spaceclip_plugin.head.space_clip import winograd
from spaceclip_plugin.head.space_clip.winograd import TILE, WinogradConvolution


def layer_and_input(
    incoming: int, outgoing: int, hw: tuple[int, int], *, batch: int = 2, seed: int = 0
) -> tuple[WinogradConvolution, Tensor, Tensor]:
    """A float64 layer, an input that lies channels last, and what a direct convolution makes of it."""
    random = torch.Generator().manual_seed(seed)
    weight = torch.randn(outgoing, incoming, 3, 3, generator=random, dtype=torch.float64) / (3 * incoming**0.5)
    bias = torch.randn(outgoing, generator=random, dtype=torch.float64)
    x = torch.randn(batch, incoming, *hw, generator=random, dtype=torch.float64).relu()
    return (
        WinogradConvolution(weight, bias),
        x.to(memory_format=torch.channels_last),
        conv2d(x, weight, bias, padding=1),
    )


@settings(deadline=None, max_examples=60)
@given(
    incoming=st.integers(1, 9),
    outgoing=st.integers(1, 9),
    hw=st.tuples(st.integers(1, 19), st.integers(1, 19)),
    batch=st.integers(1, 3),
    seed=st.integers(0, 99),
)
def test_any_size_in_float64(incoming: int, outgoing: int, hw: tuple[int, int], batch: int, seed: int) -> None:
    layer, x, expected = layer_and_input(incoming, outgoing, hw, batch=batch, seed=seed)
    got = layer(x)
    assert got.shape == expected.shape
    torch.testing.assert_close(got, expected, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("hw", [(28, 28), (30, 41)])
def test_float32_rounds_to_hundred_thousandths_of_the_spread(hw: tuple[int, int]) -> None:
    layer, x, expected = layer_and_input(256, 128, hw, batch=1)
    with torch.no_grad():
        error = (layer.float()(x.float()) - expected).abs().max() / expected.std()
    assert 1e-7 < error < 3e-5


def test_what_lies_channels_last_stays_so() -> None:
    layer, x, _ = layer_and_input(8, 6, (8, 12))
    assert layer(x).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(("hw", "reduced"), [((8, 8), True), ((4, 2), True), ((2, 3), False), ((5, 3), False)])
def test_small_maps_are_convolved_directly(hw: tuple[int, int], reduced: bool) -> None:
    """Tiles that lie beyond the map by more than half would cost what they save."""
    layer, x, expected = layer_and_input(4, 4, hw, batch=1)
    layer.points.zero_()
    with torch.no_grad():
        assert torch.allclose(layer(x), expected) is not reduced


def test_half_precision_is_convolved_directly() -> None:
    layer, x, _ = layer_and_input(8, 8, (12, 12))
    layer, x = layer.bfloat16(), x.bfloat16()
    with torch.no_grad():
        assert torch.equal(layer(x), conv2d(x, layer.weight, layer.bias, padding=1))


def test_a_quarter_of_the_products_and_what_the_transforms_cost() -> None:
    layer, x, _ = layer_and_input(256, 256, (28, 28), batch=1)
    counts = []
    for run in (lambda: layer(x), lambda: conv2d(x, layer.weight, layer.bias, padding=1)):
        with FlopCounterMode(display=False) as counter:
            run()
        counts.append(counter.get_total_flops())
    assert 0.25 <= counts[0] / counts[1] < 0.32


def test_tiles_do_not_see_each_other() -> None:
    """An infinite value reaches its neighbours and, through the transform, its tiles, and no further."""
    layer, x, _ = layer_and_input(2, 2, (16, 16), batch=1)
    x[0, 0, 1, 1] = torch.inf
    finite = layer(x).isfinite().all(dim=1)[0]
    assert finite[TILE + 1 :].all()
    assert finite[:, TILE + 1 :].all()


@pytest.mark.parametrize(
    ("shape", "worth"), [((128, 128, 3, 3), True), ((127, 512, 3, 3), False), ((512, 512, 1, 1), False)]
)
def test_which_kernels_are_worth_it(shape: tuple[int, ...], worth: bool) -> None:
    assert winograd.worth_it(torch.empty(shape)) is worth
