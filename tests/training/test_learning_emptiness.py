"""Training a head to tell where nothing is: the term, the steps, and data that never says so."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from depth_maps import batch, gradient_of
from small_world import PROTOCOL, QUIET, cached, scenes, settings, tiny_host, tiny_mixer

from spaceclip_plugin import attach_depth_head
from spaceclip_plugin.data.sample import DepthSample
from spaceclip_plugin.data.sources.mixture import Share
from spaceclip_plugin.errors import DataError
from spaceclip_plugin.evaluation import predict
from spaceclip_plugin.training import DepthTrainer, Recipe
from spaceclip_plugin.training.data_order import DataOrder
from spaceclip_plugin.training.features import Batch, Loaded
from spaceclip_plugin.training.live_features import LiveFeatures
from spaceclip_plugin.training.losses.terms import emptiness_loss
from spaceclip_plugin.training.optimizer import HeadOptimizer
from spaceclip_plugin.training.processes import Processes

RECIPE = Recipe(epochs=1, batch_size=4, views=1)


def under_a_sky(sample: DepthSample) -> DepthSample:
    """The sample with nothing in its upper half, which is white."""
    image, depth_m = sample.image.copy(), sample.depth_m.copy()
    image[:16], depth_m[:16] = 255, np.inf
    return dataclasses.replace(sample, image=image, depth_m=depth_m)


def test_the_term_pixel_by_pixel() -> None:
    _, _, known = batch(2, 7, 9)
    random = torch.Generator().manual_seed(4)
    empty = torch.rand(2, 7, 9, generator=random, dtype=torch.float64)
    nothing = (torch.rand(2, 7, 9, generator=random) < 0.3) & known
    terms = [
        -math.log(p if n else 1 - p)
        for p, n, k in zip(empty.flatten().tolist(), nothing.flatten().tolist(), known.flatten().tolist(), strict=True)
        if k
    ]
    assert emptiness_loss(empty, nothing, known=known).item() == pytest.approx(sum(terms) / len(terms), rel=1e-12)
    assert torch.autograd.gradcheck(lambda p: emptiness_loss(p, nothing, known=known), empty.requires_grad_())


def test_the_term_sees_no_unknown_pixel_and_stays_finite() -> None:
    _, _, known = batch(2, 7, 9)
    nothing = torch.zeros(2, 7, 9, dtype=torch.bool)
    empty = torch.ones(2, 7, 9)  # as wrong as can be
    empty.masked_fill_(~known, math.nan)
    empty.requires_grad_()
    value = emptiness_loss(empty, nothing, known=known)
    assert value.isfinite()
    assert torch.isfinite(gradient_of(value, empty)).all()


@pytest.mark.slow
def test_a_head_learns_the_sky(tmp_path: Path) -> None:
    host, samples = tiny_host().eval(), [under_a_sky(sample) for sample in scenes(8)]
    head = tiny_mixer(host, empty=True, dropout=0.0, channels=(48, 32), pixels=0)
    recipe = Recipe(epochs=40, batch_size=4, learning_rate=1e-2, ema_decay=0.9, views=1)
    with attach_depth_head(host, head) as attachment:
        stream = cached(attachment, samples, tmp_path, versions=1)
        order = DataOrder((Share(8, 1.0),), batch_size=4, accumulation=1, versions=1, seed=0)
        optimizer = HeadOptimizer(head, recipe, stream, order=order, processes=Processes(torch.device("cpu")))
        for epoch in range(recipe.epochs):
            list(optimizer.epoch(epoch))
    with attach_depth_head(host, optimizer.average) as attachment:
        for flip in (False, True):
            depth = predict(attachment, [samples[0].image], output_hw=(32, 32), flip=flip)
            assert depth.valid[0, :14].float().mean() < 0.1
            assert depth.valid[0, 18:].float().mean() > 0.9
            assert torch.equal(depth.valid, depth.empty <= 0.5)
            assert depth.depth_m.isfinite().all()


class SkyAlone(LiveFeatures):
    """Of the upper half it is known that nothing is there, and of the rest nothing is known."""

    def decode(self, loaded: Loaded, device: torch.device) -> Batch:
        batch = super().decode(loaded, device)
        batch.target_m[:, :16], batch.target_m[:, 16:] = math.inf, 0
        return batch


def test_a_crop_of_sky_teaches_no_depth_and_no_uncertainty() -> None:
    host = tiny_host().eval()
    head = tiny_mixer(host, empty=True, dropout=0.0)
    with attach_depth_head(host, head) as attachment:
        stream = SkyAlone(attachment, scenes(1), settings=settings(versions=1))
        order = DataOrder((Share(1, 1.0),), batch_size=1, accumulation=1, versions=1, seed=0)
        recipe = Recipe(epochs=1, batch_size=1, weight_decay=0.0)
        before = {name: value.clone() for name, value in head.named_parameters()}
        processes = Processes(torch.device("cpu"))
        [loss] = HeadOptimizer(head, recipe, stream, order=order, processes=processes).epoch(0)
    assert loss == pytest.approx(-math.log(0.05), rel=0.2)  # what a fresh head says
    moved = {name for name, value in head.named_parameters() if not torch.equal(value, before[name])}
    assert moved > {"decoder.emptiness.weight", "decoder.emptiness.bias"}
    assert not {name for name in moved if name.startswith("decoder.spread")}
    for name in ("decoder.out.weight", "decoder.out.bias"):  # its first row is the depth's, the others upsample both
        assert torch.equal(head.get_parameter(name)[0], before[name][0])


def test_sky_teaches_a_head_that_does_not_tell_nothing(tmp_path: Path) -> None:
    host = tiny_host()
    samples = [under_a_sky(sample) for sample in scenes(4)]
    unknown = [dataclasses.replace(one, depth_m=np.where(np.isinf(one.depth_m), 0, one.depth_m)) for one in samples]
    validation = [under_a_sky(sample) for sample in scenes(2, seed=1)]
    digests = []
    for name, train in (("sky", samples), ("unknown", unknown)):
        trainer = DepthTrainer(host, tiny_mixer(host), recipe=RECIPE, protocol=PROTOCOL)
        result = trainer.fit(train, validation, tmp_path / name, trained_on="scenes", options=QUIET)
        digests.append({name: value.tolist() for name, value in result.head.state_dict().items()})
    assert digests[0] == digests[1]


def test_a_run_leaves_a_head_that_tells(tmp_path: Path) -> None:
    host = tiny_host()
    train, validation = ([under_a_sky(sample) for sample in scenes(count, seed)] for count, seed in ((4, 0), (2, 1)))
    trainer = DepthTrainer(host, tiny_mixer(host, empty=True), recipe=RECIPE, protocol=PROTOCOL)
    result = trainer.fit(train, validation, tmp_path / "out", trained_on="scenes", options=QUIET)
    assert result.head.config.options.empty
    assert math.isfinite(result.validation.abs_rel)


def test_data_that_never_says_so_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    host = tiny_host()
    trainer = DepthTrainer(host, tiny_mixer(host, empty=True), recipe=RECIPE, protocol=PROTOCOL)
    with pytest.raises(DataError, match="none of the 4 training samples has a pixel of infinite depth"):
        trainer.fit(scenes(4), scenes(2, seed=1), tmp_path / "out", trained_on="scenes", options=QUIET)
    assert not (tmp_path / "out").exists()
