"""What a step asks of its stream and gives to the loss."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from small_world import PROTOCOL, cached, scenes, tiny_head, tiny_host, tiny_mixer
from torch import Tensor
from uncertain_head import uncertain_head

from spaceclip_plugin import DepthHead, attach_depth_head
from spaceclip_plugin.data.sources.mixture import Share
from spaceclip_plugin.errors import CheckpointError
from spaceclip_plugin.head.decoder import HeadOutput
from spaceclip_plugin.training.cache.feature_cache import FeatureCache
from spaceclip_plugin.training.config.recipe import Recipe
from spaceclip_plugin.training.data_order import DataOrder
from spaceclip_plugin.training.features import Loaded
from spaceclip_plugin.training.losses import LOSSES
from spaceclip_plugin.training.losses.relative import RelativeLoss
from spaceclip_plugin.training.optimizer import HeadOptimizer
from spaceclip_plugin.training.processes import Processes

IMAGES = 20


def cache_for(head: DepthHead, folder: Path, versions: int) -> FeatureCache:
    host = tiny_host().eval()
    with attach_depth_head(host, head) as attachment:
        return cached(attachment, scenes(IMAGES), folder, versions=versions, target_side=16)


def order_of(recipe: Recipe, versions: int) -> DataOrder:
    return DataOrder(
        (Share(IMAGES, 1.0),),
        batch_size=recipe.batch_size,
        accumulation=recipe.accumulation,
        versions=versions,
        seed=recipe.seed,
    )


def optimizer_for(head: DepthHead, recipe: Recipe, cache: FeatureCache) -> HeadOptimizer:
    order = order_of(recipe, cache.versions)
    return HeadOptimizer(head, recipe, cache, order=order, processes=Processes(torch.device("cpu")))


@pytest.mark.parametrize("versions", [1, 2, 5])
def test_steps_are_those_of_the_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, versions: int) -> None:
    head, recipe = tiny_head(tiny_host()), Recipe(epochs=2, batch_size=8, seed=4)
    cache = cache_for(head, tmp_path, versions)
    asked: list[tuple[list[int], list[int]]] = []
    load = cache.load

    def asking(indices: Sequence[int], numbers: Sequence[int]) -> Loaded:
        asked.append((list(indices), list(numbers)))
        return load(indices, numbers)

    monkeypatch.setattr(cache, "load", asking)
    optimizer = optimizer_for(head, recipe, cache)
    for epoch in range(2):
        assert len(list(optimizer.epoch(epoch))) == 3
    steps = [step for epoch in range(2) for step in order_of(recipe, versions).epoch(epoch)]
    assert asked == [(indices.tolist(), numbers.tolist()) for indices, numbers in steps]
    assert optimizer.step == optimizer.steps == 6


def test_micro_batches_add_up_to_the_gradient_of_their_mean(tmp_path: Path) -> None:
    """A step of eight images in two parts moves the weights as the mean of both parts' losses does."""
    moved = []
    for accumulation in (1, 2):
        head = tiny_mixer(tiny_host(), dropout=0.0)
        cache = cache_for(head, tmp_path / str(accumulation), 1)
        recipe = Recipe(epochs=1, batch_size=IMAGES, accumulation=accumulation, gradient_norm=1e6)
        optimizer = optimizer_for(head, recipe, cache)
        gradients: list[Tensor] = []
        update = optimizer._update

        def keeping(update=update, head=head, gradients=gradients) -> None:  # type: ignore[no-untyped-def]
            gradients.extend(p.grad.clone() for p in head.parameters())
            update()

        optimizer._update = keeping  # type: ignore[method-assign]
        [loss] = optimizer.epoch(0)
        moved.append((loss, gradients))
        if accumulation == 2:
            fresh = tiny_mixer(tiny_host(), dropout=0.0).train()
            [(order, _)] = order_of(recipe, 1).epoch(0)
            halves = []
            for half in (order[:10].tolist(), order[10:].tolist()):
                batch = cache.decode(cache.load(half, [0] * 10), torch.device("cpu"))
                output = fresh(batch.features, cache.target_hw, auxiliary=True)
                valid = (batch.target_m > PROTOCOL.min_depth_m) & (batch.target_m < PROTOCOL.max_depth_m)
                halves.append(RelativeLoss()(output, batch.target_m, valid=valid))
            mean = (halves[0] + halves[1]) / 2
            mean.backward()
            assert loss == pytest.approx(float(mean.detach()), rel=1e-5)
            for parameter, gradient in zip(fresh.parameters(), gradients, strict=True):
                torch.testing.assert_close(gradient, parameter.grad, rtol=1e-4, atol=1e-6)
    assert moved[0][0] != moved[1][0]  # SILog of all is not the mean of SILogs


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("silent", [False, True])
def test_the_loss_is_given_the_uncertainty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, silent: bool, precision: str
) -> None:
    given: list[Tensor | None] = []

    class Watching(RelativeLoss):
        def __call__(self, output: HeadOutput, target_m: Tensor, *, valid: Tensor) -> Tensor:
            given.append(output.uncertainty_m)
            return super().__call__(output, target_m, valid=valid)

    monkeypatch.setitem(LOSSES, "watching", Watching)
    head = uncertain_head(tiny_host(), monkeypatch, silent=silent)
    cache = cache_for(head, tmp_path, 1)
    before = head.decoder.log_spread.item()
    recipe = Recipe(epochs=1, batch_size=8, loss="watching", precision=precision)
    list(optimizer_for(head, recipe, cache).epoch(0))
    if silent:
        assert given == [None] * 3
    else:
        assert [(u.dtype, tuple(u.shape)) for u in given if u is not None] == [
            (torch.float32, (count, 16, 16)) for count in (8, 8, 4)
        ]
        assert head.decoder.log_spread.item() > before + 1e-4  # it claimed far too much certainty


def test_a_state_is_of_one_head(tmp_path: Path) -> None:
    host = tiny_host()
    recipe = Recipe(epochs=1, batch_size=8)
    one, other = tiny_mixer(host), tiny_mixer(host, channels=(48, 16))
    cache = cache_for(one, tmp_path, 1)
    state = optimizer_for(one, recipe, cache).state()
    with pytest.raises(CheckpointError, match="the head of another architecture"):
        optimizer_for(other, recipe, cache).load(state, step=0)
