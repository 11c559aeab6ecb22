"""Crops that see nothing but unknown depth weigh nothing: they end no run and move no weight."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from small_world import PROTOCOL, QUIET, cached, scenes, settings, tiny_head, tiny_host, tiny_mixer
from torch import Tensor

from spaceclip_plugin import DepthHead, attach_depth_head
from spaceclip_plugin.data.sample import DepthSample
from spaceclip_plugin.data.sources.mixture import Share
from spaceclip_plugin.errors import DataError
from spaceclip_plugin.training import DepthTrainer
from spaceclip_plugin.training.cache.feature_cache import FeatureCache
from spaceclip_plugin.training.config.recipe import RECIPES, Recipe
from spaceclip_plugin.training.data_order import DataOrder
from spaceclip_plugin.training.features import Batch, Loaded
from spaceclip_plugin.training.optimizer import HeadOptimizer
from spaceclip_plugin.training.processes import Processes

IMAGES = 8


class Blind:
    """A stream whose images `unknown` have targets without depth; `target_m` says why."""

    def __init__(self, stream: FeatureCache, unknown: Collection[int], target_m: float = 0.0) -> None:
        self.stream, self.unknown, self.indices, self.target_m = stream, unknown, [list[int]()], target_m
        self.target_hw, self.versions, self.name = stream.target_hw, stream.versions, stream.name

    def __len__(self) -> int:
        return len(self.stream)

    def load(self, indices: Sequence[int], versions: Sequence[int]) -> Loaded:
        self.indices.append(list(indices))
        return self.stream.load(indices, versions)

    def decode(self, loaded: Loaded, device: torch.device) -> Batch:
        batch = self.stream.decode(loaded, device)
        for row, index in enumerate(self.indices[-1]):
            if index in self.unknown:
                batch.target_m[row] = self.target_m
        return batch


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> FeatureCache:
    host = tiny_host().eval()
    with attach_depth_head(host, tiny_mixer(host)) as attachment:
        return cached(attachment, scenes(IMAGES), tmp_path_factory.mktemp("cache"), versions=1, target_side=16)


def optimizer_for(head: DepthHead, stream: Blind, recipe: Recipe) -> HeadOptimizer:
    order = DataOrder(
        (Share(IMAGES, 1.0),),
        batch_size=recipe.batch_size,
        accumulation=recipe.accumulation,
        versions=1,
        seed=recipe.seed,
    )
    processes = Processes(torch.device("cpu"))
    return HeadOptimizer(head, recipe, stream, order=order, processes=processes)


def weights(head: DepthHead) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in head.named_parameters()}


def order_of(recipe: Recipe) -> list[list[int]]:
    """The images of every step."""
    shares = (Share(IMAGES, 1.0),)
    order = DataOrder(shares, batch_size=recipe.batch_size, accumulation=1, versions=1, seed=recipe.seed)
    return [indices.tolist() for indices, _ in order.epoch(0)]


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("loss", ["relative", "published"])
def test_a_step_without_depth_moves_nothing_and_counts(cache: FeatureCache, loss: str, accumulation: int) -> None:
    head = tiny_mixer(tiny_host(), dropout=0.0, uncertainty=loss == "relative")
    recipe = Recipe(epochs=1, batch_size=4, accumulation=accumulation, loss=loss)
    optimizer = optimizer_for(head, Blind(cache, order_of(recipe)[1]), recipe)
    steps = optimizer.epoch(0)
    first = next(steps)
    before, moments = weights(head), {name: value.clone() for name, value in optimizer.state()["optimizer"].items()}
    assert next(steps) == 0.0
    assert list(steps) == []
    assert first > 0
    assert optimizer.step == 2
    for name, value in weights(head).items():
        assert torch.equal(value, before[name])
    for name, value in optimizer.state()["optimizer"].items():
        assert torch.equal(value, moments[name])
    assert all(value.isfinite().all() for value in optimizer.average.state_dict().values())


def test_what_follows_such_a_step_is_as_if_it_had_not_been_but_for_its_number(cache: FeatureCache) -> None:
    recipe = Recipe(epochs=1, batch_size=4, gradient_norm=1e6)
    head = tiny_mixer(tiny_host(), dropout=0.0)
    optimizer = optimizer_for(head, Blind(cache, order_of(recipe)[0]), recipe)
    assert next(iter(optimizer.epoch(0))) == 0.0
    assert not optimizer.state()["optimizer"]
    other = tiny_mixer(tiny_host(), dropout=0.0)
    follower = optimizer_for(other, Blind(cache, ()), recipe)
    follower.load(optimizer.state(), step=1)  # a resumed run has no depth behind it either
    assert list(optimizer.epoch(0)) == list(follower.epoch(0))
    for name, value in weights(head).items():
        assert torch.equal(value, weights(other)[name])


def gradients_of(cache: FeatureCache, unknown: Collection[int], recipe: Recipe) -> tuple[float, list[Tensor]]:
    head = tiny_mixer(tiny_host(), dropout=0.0)
    optimizer = optimizer_for(head, Blind(cache, unknown), recipe)
    clip, kept = torch.nn.utils.clip_grad_norm_, list[Tensor]()

    def keeping(parameters: list[Tensor], norm: float) -> Tensor:
        kept.extend(parameter.grad.clone() for parameter in parameters if parameter.grad is not None)
        return clip(parameters, norm)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.nn.utils, "clip_grad_norm_", keeping)
        [loss] = optimizer.epoch(0)
    return loss, kept


def test_micro_batches_with_depth_share_the_weight_of_the_step(cache: FeatureCache) -> None:
    """Of four micro-batches two know nothing: the gradient is the mean of the other two."""
    recipe = Recipe(epochs=1, batch_size=IMAGES, accumulation=4, gradient_norm=1e6)
    [order] = order_of(recipe)
    loss, found = gradients_of(cache, [*order[0:2], *order[4:6]], recipe)
    parts = [gradients_of(cache, set(order) - set(order[i : i + 2]), recipe) for i in (2, 6)]
    assert loss == pytest.approx(sum(part for part, _ in parts) / 2, rel=1e-5)
    for index, gradient in enumerate(found):
        mean = sum(gradients[index] for _, gradients in parts) / 2
        torch.testing.assert_close(gradient, mean, rtol=1e-4, atol=1e-6)


def test_an_image_without_depth_weighs_nothing_in_its_batch(cache: FeatureCache) -> None:
    recipe = Recipe(epochs=1, batch_size=IMAGES, gradient_norm=1e6)
    _, whole = gradients_of(cache, (), recipe)
    loss, found = gradients_of(cache, (3,), recipe)
    assert np.isfinite(loss)
    assert all(gradient.isfinite().all() for gradient in found)
    assert any(not torch.equal(one, other) for one, other in zip(whole, found, strict=True))


def test_where_nothing_is_there_is_no_depth_to_learn(cache: FeatureCache) -> None:
    recipe = Recipe(epochs=1, batch_size=IMAGES, gradient_norm=1e6)
    losses, weights_after = [], []
    for target_m in (0.0, float("inf")):
        head = tiny_mixer(tiny_host(), dropout=0.0)
        losses.append(list(optimizer_for(head, Blind(cache, (3,), target_m), recipe).epoch(0)))
        weights_after.append(weights(head))
    assert losses[0] == losses[1]
    assert all(torch.equal(value, weights_after[1][name]) for name, value in weights_after[0].items())


def in_a_corner(sample: DepthSample) -> DepthSample:
    """The sample with known depth in two by two pixels of its corner alone."""
    depth_m = np.zeros_like(sample.depth_m)
    depth_m[:2, :2] = sample.depth_m[:2, :2]
    return dataclasses.replace(sample, depth_m=depth_m)


@pytest.mark.parametrize("storage", ["fp16", "none"])
@pytest.mark.parametrize("recipe", ["recommended", "published"])
def test_a_run_on_crops_without_depth_ends_well(tmp_path: Path, recipe: str, storage: str) -> None:
    train = [in_a_corner(sample) for sample in scenes(6)]
    made = Recipe() if recipe == "recommended" else RECIPES["published"]
    made = dataclasses.replace(
        made, epochs=2, batch_size=1, accumulation=1, views=8, cache=storage, augmentation="recommended"
    )
    views = [
        settings().augmentation.version(number, seed=made.seed, index=index, image_hw=(32, 32))
        for index in range(6)
        for number in range(8)
    ]
    assert any(not view.target(train[0].depth_m, (32, 32)).any() for view in views)
    host = tiny_host()
    head = tiny_mixer(host) if recipe == "recommended" else tiny_head(host)
    result = DepthTrainer(host, head, recipe=made, protocol=PROTOCOL).fit(
        train, scenes(2, seed=1), tmp_path / "out", trained_on="corners", options=QUIET
    )
    assert np.isfinite(result.validation.abs_rel)


def test_data_without_any_depth_is_refused_at_its_check(tmp_path: Path) -> None:
    train = [dataclasses.replace(sample, depth_m=np.zeros_like(sample.depth_m)) for sample in scenes(3)]
    host = tiny_host()
    trainer = DepthTrainer(host, tiny_mixer(host), recipe=Recipe(epochs=1, batch_size=1), protocol=PROTOCOL)
    with pytest.raises(DataError, match="none of 3 samples has a pixel of known depth"):
        trainer.fit(train, scenes(2, seed=1), tmp_path / "out", trained_on="nothing", options=QUIET)
