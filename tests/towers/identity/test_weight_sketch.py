"""Sketches tell how far weights are apart, whatever their names, order, dtype, device and threads."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from spaceclip_plugin.errors import ConfigError
from spaceclip_plugin.towers.identity.weight_sketch import Sketch, SketchMaker, decoded, encoded

WIDTH = 48
NORM = 570.999
PROJECTIONS = (
    23587,
    -23587,
    -20782,
    -637,
    5355,
    22695,
    5992,
    -2422,
    10327,
    -19507,
    -15555,
    892,
    -18232,
    32767,
    12367,
    -10072,
)


def sketch(*weights: Tensor, width: int = WIDTH) -> Sketch:
    maker = SketchMaker(width)
    for weight in weights:
        maker.add(weight)
    return maker.sketch


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class TestDistance:
    @pytest.mark.parametrize("moved", [0.01, 0.1])
    @pytest.mark.parametrize("seed", range(5))
    def test_it_is_about_the_true_one(self, moved: float, seed: int) -> None:
        weight, step = random(WIDTH * 4, WIDTH, seed=seed), random(WIDTH * 4, WIDTH, seed=100 + seed)
        changed = weight + moved * step * weight.norm() / step.norm()
        assert sketch(weight).distance(sketch(changed)) == pytest.approx(moved, rel=0.6)

    @pytest.mark.parametrize("moved", [1e-5, 1e-4, 1e-3])
    def test_less_than_a_step_of_bfloat16_shows_more_not_less(self, moved: float) -> None:
        weight, step = random(WIDTH * 4, WIDTH), random(WIDTH * 4, WIDTH, seed=100)
        assert sketch(weight).distance(sketch(weight + moved * step)) > moved

    def test_a_change_of_one_row_shows_in_full(self) -> None:
        weight = random(WIDTH, WIDTH)
        changed = weight.clone()
        changed[7] *= 1.5
        true = float((changed - weight).norm() / changed.norm())
        assert sketch(weight).distance(sketch(changed)) == pytest.approx(true, rel=0.6)

    def test_unrelated_weights_are_about_the_root_of_two_apart(self) -> None:
        apart = [sketch(random(96, WIDTH, seed=s)).distance(sketch(random(96, WIDTH, seed=50 + s))) for s in range(40)]
        assert math.sqrt(sum(a * a for a in apart) / len(apart)) == pytest.approx(math.sqrt(2), rel=0.1)

    def test_of_the_same_and_of_nothing(self) -> None:
        assert sketch(random(96, WIDTH)).distance(sketch(random(96, WIDTH))) == 0.0
        assert sketch().distance(sketch()) == 0.0
        assert sketch(torch.zeros(WIDTH)).distance(sketch(torch.zeros(WIDTH))) == 0.0

    def test_next_to_nothing_is_compared_with_a_floor(self) -> None:
        small, other = sketch(1e-6 * random(WIDTH)), sketch(1e-6 * random(WIDTH, seed=1))
        assert small.distance(other) > 0.5
        assert small.distance(other, min_norm=1.0) < 1e-4


class TestArrangement:
    def test_one_matrix_of_queries_keys_and_values_is_three(self) -> None:
        fused = random(3 * WIDTH, WIDTH)
        assert sketch(fused) == sketch(*fused.split(WIDTH))

    def test_a_fused_bias_is_three(self) -> None:
        fused = random(3 * WIDTH)
        assert sketch(fused) == sketch(*fused.split(WIDTH))

    def test_order_does_not_matter(self) -> None:
        a, b = random(2 * WIDTH, WIDTH), random(WIDTH, 2 * WIDTH, seed=1)
        assert sketch(a, b) == sketch(b, a)

    def test_the_place_within_a_matrix_does(self) -> None:
        weight = random(WIDTH, WIDTH)
        assert sketch(weight).distance(sketch(weight.flip(0))) > 0.5
        assert sketch(weight).distance(sketch(weight.T)) > 0.5


@pytest.fixture
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("_threads")
def test_threads_do_not_matter() -> None:
    weight = random(700, 500)
    torch.set_num_threads(1)
    alone = sketch(weight)
    torch.set_num_threads(2)
    assert sketch(weight) == alone


def test_the_numbers_are_the_same_for_ever() -> None:
    """What heads carry is compared with what later versions compute."""
    weight = torch.arange(WIDTH * 2, dtype=torch.float64).reshape(2, WIDTH)
    found = sketch(weight, torch.arange(float(WIDTH)))
    assert (found.count, round(found.norm, 3)) == (144, NORM)
    assert found.projections == PROJECTIONS


def test_a_cast_to_bfloat16_changes_nothing() -> None:
    weight = random(4 * WIDTH, WIDTH)
    assert sketch(weight.bfloat16()) == sketch(weight) == sketch(weight.double())


def test_a_cast_to_float16_moves_it_little() -> None:
    weight = random(4 * WIDTH, WIDTH)
    assert 0 < sketch(weight).distance(sketch(weight.half())) < 0.003


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e30])
def test_no_numbers(value: float) -> None:
    with pytest.raises(ValueError, match="NaN"):
        _ = sketch(torch.full((WIDTH,), value))


class TestText:
    def test_there_and_back(self) -> None:
        found = (sketch(random(96, WIDTH)), sketch(random(WIDTH)), sketch())
        assert decoded("it", encoded(*found), 3) == found

    @pytest.mark.parametrize(
        "text",
        [None, 3, "", "x", "A" * 59, "=" * 60, "A" * 57 + "\n\n\n", "A" * 56 + "é" * 4, "A" * 200, ["A"]],
    )
    def test_what_is_none(self, text: object) -> None:
        with pytest.raises(ConfigError, match="it must be base64"):
            decoded("it", text, 1)

    @pytest.mark.parametrize("norm", [math.nan, math.inf, -1.0, 2e9])
    def test_a_norm_that_cannot_be(self, norm: float) -> None:
        bad = dataclasses.replace(sketch(random(WIDTH)), norm=norm)
        with pytest.raises(ConfigError, match="norm"):
            decoded("it", encoded(bad), 1)
