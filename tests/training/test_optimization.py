"""What a step asks of the cache and gives to the loss."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from small_world import PROTOCOL, scenes, tiny_head, tiny_host
from torch import Tensor
from uncertain_head import uncertain_head

from spaceclip_plugin import DepthHead, attach_depth_head
from spaceclip_plugin.training.feature_cache import Batch, FeatureCache, cache_features
from spaceclip_plugin.training.losses import LOSSES
from spaceclip_plugin.training.optimization import HeadOptimizer
from spaceclip_plugin.training.recipe import Recipe
from spaceclip_plugin.training.relative_loss import RelativeLoss


def cache_for(head: DepthHead, folder: Path, views: int) -> FeatureCache:
    host = tiny_host().eval()
    with attach_depth_head(host, head) as attachment:
        return cache_features(attachment, scenes(20), folder, protocol=PROTOCOL, views=views, target_side=16)


def batches_of_two_epochs(
    views: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> list[tuple[list[int], list[int]]]:
    head = tiny_head(tiny_host())
    cache = cache_for(head, tmp_path, views)
    asked: list[tuple[list[int], list[int]]] = []
    batch = cache.batch

    def asking(indices: list[int], numbers: list[int]) -> Batch:
        asked.append((list(indices), list(numbers)))
        return batch(indices, numbers)

    monkeypatch.setattr(cache, "batch", asking)
    stepper = HeadOptimizer(head, Recipe(epochs=2, batch_size=8, seed=4), PROTOCOL, cache)
    for _ in range(2):
        list(stepper.epoch())
    assert len(asked) == stepper.steps == 6
    return asked


def test_two_views_are_drawn_as_the_published_runs_drew_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(4)
    expected = []
    for _ in range(2):
        for indices in torch.split(torch.randperm(20, generator=generator), 8):
            mirrored = torch.rand(len(indices), generator=generator) < 0.5
            expected.append((indices.tolist(), mirrored.int().tolist()))
    assert batches_of_two_epochs(2, tmp_path, monkeypatch) == expected


def test_one_view_draws_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(4)
    orders = [torch.randperm(20, generator=generator).tolist() for _ in range(2)]
    asked = batches_of_two_epochs(1, tmp_path, monkeypatch)
    assert [i for indices, _ in asked for i in indices] == [*orders[0], *orders[1]]
    assert all(numbers == [0] * len(indices) for indices, numbers in asked)


def test_every_view_is_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = [view for _, drawn in batches_of_two_epochs(5, tmp_path, monkeypatch) for view in drawn]
    assert set(numbers) == set(range(5))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("silent", [False, True])
def test_the_loss_is_given_the_uncertainty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, silent: bool, precision: str
) -> None:
    given: list[Tensor | None] = []

    class Watching(RelativeLoss):
        def __call__(self, *args: object, uncertainty_m: Tensor | None = None, **maps: object) -> object:
            given.append(uncertainty_m)
            return super().__call__(*args, uncertainty_m=uncertainty_m, **maps)  # type: ignore[arg-type]

    monkeypatch.setitem(LOSSES, "watching", Watching)
    head = uncertain_head(tiny_host(), monkeypatch, silent=silent)
    cache = cache_for(head, tmp_path, 1)
    before = head.decoder.log_spread.item()
    recipe = Recipe(epochs=1, batch_size=8, loss="watching", precision=precision)
    list(HeadOptimizer(head, recipe, PROTOCOL, cache).epoch())
    if silent:
        assert given == [None] * 3
    else:
        assert [(u.dtype, tuple(u.shape)) for u in given if u is not None] == [
            (torch.float32, (count, 16, 16)) for count in (8, 8, 4)
        ]
        assert head.decoder.log_spread.item() > before + 1e-4  # it claimed far too much certainty
