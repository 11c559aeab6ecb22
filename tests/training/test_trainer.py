"""A run end to end: the host stays, the best head is kept, the record is true, and failures leave nothing behind."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_world import PROTOCOL, scenes, tiny_head, tiny_host
from torch import nn
from uncertain_head import uncertain_head

from spaceclip_plugin import DepthHead, attach_depth_head
from spaceclip_plugin.data.sample import DepthSample
from spaceclip_plugin.digest import module_digest
from spaceclip_plugin.errors import ConfigError, SpaceClipError, TrainingError
from spaceclip_plugin.evaluation.evaluate import evaluate
from spaceclip_plugin.training import trainer as trainer_module
from spaceclip_plugin.training.feature_cache import FeatureCache, cache_features
from spaceclip_plugin.training.recipe import Recipe
from spaceclip_plugin.training.trainer import DepthTrainer, TrainingResult

RECIPE = Recipe.published(epochs=4, batch_size=8, learning_rate=5e-3, ema_decay=0.9)
RECOMMENDED = Recipe(epochs=4, batch_size=8, learning_rate=2e-2, ema_decay=0.9, views=3, target_side=24)


def fit(out: Path, host: nn.Module | None = None, recipe: Recipe = RECIPE, **options: object) -> TrainingResult:
    host = tiny_host() if host is None else host
    trainer = DepthTrainer(host, tiny_head(host), recipe=recipe, protocol=PROTOCOL)
    sources = {"train": scenes(24), "validation": scenes(6, seed=1), **options}
    return trainer.fit(sources["train"], sources["validation"], out, trained_on="24 scenes", progress=False)


def lines(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, Path, TrainingResult, str]:
    host, out = tiny_host(), tmp_path_factory.mktemp("run") / "out"
    before = module_digest(host)
    return host, out, fit(out, host), before


class TestARun:
    def test_the_host_is_the_same_bits(self, run: tuple) -> None:
        host, out, result, before = run
        assert module_digest(host) == before == result.host_digest
        record = json.loads((out / "run.json").read_text())
        assert record["host_digest_before"] == record["host_digest_after"] == before
        assert all(parameter.grad is None for parameter in host.parameters())
        assert not any(module._forward_hooks for module in host.modules())

    def test_it_learns(self, run: tuple) -> None:
        losses = [line["loss"] for line in lines(run[1])]
        assert losses[-1] < 0.8 * losses[0]

    def test_the_best_epoch_is_kept(self, run: tuple) -> None:
        _, out, result, _ = run
        scores = [line["val_abs_rel"] for line in lines(out)]
        assert [line["epoch"] for line in lines(out)] == [1, 2, 3, 4]
        assert result.best_epoch == 1 + int(np.argmin(scores))
        assert result.validation.abs_rel == min(scores)

    def test_the_saved_head_scores_what_the_record_says(self, run: tuple) -> None:
        host, out, result, _ = run
        assert result.folder == out / "head"
        with attach_depth_head(host.eval(), DepthHead.from_pretrained(out / "head")) as depth:
            again = evaluate(depth, scenes(6, seed=1), protocol=PROTOCOL)
        # The cache holds float16 features: a little less than what a live tower gives.
        assert again.mean.abs_rel == pytest.approx(result.validation.abs_rel, rel=5e-3)

    def test_the_head_knows_what_it_is(self, run: tuple) -> None:
        head = run[2].head
        assert head.trained
        assert head.config.trained_on == "24 scenes"
        assert head.config.depth_range_m == (PROTOCOL.min_depth_m, PROTOCOL.max_depth_m)

    def test_only_results_remain(self, run: tuple) -> None:
        assert sorted(path.name for path in run[1].iterdir()) == ["head", "metrics.jsonl", "run.json"]
        record = json.loads((run[1] / "run.json").read_text())
        assert record["finished"]
        assert (record["train_images"], record["validation_images"]) == (24, 6)
        assert record["recipe"] == dataclasses.asdict(RECIPE)
        assert record["uncertainty"] is None
        assert run[2].calibration is None

    def test_the_folder_is_taken(self, run: tuple) -> None:
        host = tiny_host()
        with pytest.raises(TrainingError, match="already holds a run"):
            fit(run[1], host)
        assert not any(module._forward_hooks for module in host.modules())


def test_a_folder_with_anything_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "precious").write_text("mine")
    (tmp_path / "metrics.jsonl").write_text("mine too")
    with pytest.raises(TrainingError, match=r"is not empty \(it holds 'cache'\)"):
        fit(tmp_path)
    assert (tmp_path / "cache" / "precious").read_text() == "mine"
    assert (tmp_path / "metrics.jsonl").read_text() == "mine too"


def test_a_seed_is_a_run(tmp_path: Path) -> None:
    state = torch.get_rng_state()
    first, second = fit(tmp_path / "a"), fit(tmp_path / "b")
    assert torch.equal(torch.get_rng_state(), state)
    for name, value in first.head.state_dict().items():
        assert torch.equal(value, second.head.state_dict()[name]), name
    other = fit(tmp_path / "c", recipe=Recipe(**{**RECIPE.__dict__, "seed": 1}))
    assert other.validation != first.validation


def test_host_modes_are_given_back(tmp_path: Path) -> None:
    host = tiny_host().train()
    host.blocks[1].eval()
    modes = [module.training for module in host.modules()]
    fit(tmp_path / "out", host)
    assert [module.training for module in host.modules()] == modes


def test_mixed_precision_learns_too(tmp_path: Path) -> None:
    result = fit(tmp_path / "out", recipe=Recipe(**{**RECIPE.__dict__, "precision": "bf16"}))
    assert lines(tmp_path / "out")[-1]["loss"] < 0.8 * lines(tmp_path / "out")[0]["loss"]
    assert {value.dtype for value in result.head.parameters()} == {torch.float32}


def test_a_head_without_film_or_structure(tmp_path: Path) -> None:
    host = tiny_host()
    head = tiny_head(host, film_hidden=None, structural_taps=())
    trainer = DepthTrainer(host, head, recipe=RECIPE, protocol=PROTOCOL)
    trainer.fit(scenes(16), scenes(4, seed=1), tmp_path / "out", trained_on="scenes", progress=False)
    assert not DepthHead.from_pretrained(tmp_path / "out" / "head").uses_context


def test_the_recommended_recipe_learns_too(tmp_path: Path) -> None:
    fit(tmp_path / "out", recipe=RECOMMENDED)
    losses = [line["loss"] for line in lines(tmp_path / "out")]
    assert losses[-1] < 0.8 * losses[0]


def test_the_cache_is_made_as_the_recipe_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[FeatureCache, dict]] = []

    def making(*args: Any, **options: Any) -> FeatureCache:
        cache = cache_features(*args, **options)
        made.append((cache, options))
        return cache

    monkeypatch.setattr(trainer_module, "cache_features", making)
    fit(tmp_path / "out", recipe=dataclasses.replace(RECOMMENDED, epochs=1, seed=5))
    (train, train_options), (held_out, _) = made
    assert (len(train), train.views, train.target_hw, train_options["seed"]) == (24, 3, (24, 24), 5)
    # Validation is of the images as photographed, and scored on the samples themselves.
    assert (len(held_out), held_out.views, held_out.batch([0], [0]).target_m.numel()) == (6, 1, 0)


class TestUncertainty:
    @pytest.fixture
    def calibrated(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[nn.Module, Path, TrainingResult]:
        host = tiny_host()
        head = uncertain_head(host, monkeypatch)
        trainer = DepthTrainer(host, head, recipe=RECOMMENDED, protocol=PROTOCOL)
        out = tmp_path / "out"
        return host, out, trainer.fit(scenes(16), scenes(6, seed=1), out, trained_on="x", progress=False)

    def test_the_record_says_what_it_is_worth(self, calibrated: tuple) -> None:
        _, out, result = calibrated
        record = json.loads((out / "run.json").read_text())["uncertainty"]
        assert record.keys() == {"factor", "before", "after", "cross_checked", "images"}
        assert record["factor"] == result.calibration.factor
        assert record["images"] == 6
        for level in (0.5, 0.9):
            # The head starts out far too sure of itself, and four epochs do not mend that.
            assert record["before"][str(level)] < level - 0.1
            assert abs(record["after"][str(level)] - level) < 0.1
            assert abs(record["cross_checked"][str(level)] - level) < 0.2
            assert record["cross_checked"] != record["after"]

    def test_the_saved_head_is_the_rescaled_one(self, calibrated: tuple) -> None:
        host, out, result = calibrated
        head = DepthHead.from_pretrained(out / "head")
        assert head.decoder.log_spread.item() == result.head.decoder.log_spread.item()
        with attach_depth_head(host.eval(), head) as depth:
            again = evaluate(depth, scenes(6, seed=1), protocol=PROTOCOL)
        # 32x32 images are calibrated on every pixel; the cache holds float16 features.
        assert again.coverage == pytest.approx(result.calibration.after, abs=5e-3)
        assert again.mean.abs_rel == pytest.approx(result.validation.abs_rel, rel=5e-3)
        with torch.no_grad():
            head.decoder.rescale_uncertainty(1 / result.calibration.factor)
        with attach_depth_head(host.eval(), head) as depth:
            before = evaluate(depth, scenes(6, seed=1), protocol=PROTOCOL)
        assert before.coverage == pytest.approx(result.calibration.before, abs=5e-3)

    def test_a_head_that_gives_none_stays_as_it_is(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        host = tiny_host()
        head = uncertain_head(host, monkeypatch, silent=True)
        trainer = DepthTrainer(host, head, recipe=RECOMMENDED, protocol=PROTOCOL)
        result = trainer.fit(scenes(16), scenes(3, seed=1), tmp_path / "out", trained_on="x", progress=False)
        assert result.calibration is None
        assert result.head.decoder.log_spread.item() == -5.0  # decayed by nothing: no gradient, no step
        assert json.loads((tmp_path / "out" / "run.json").read_text())["uncertainty"] is None

    def test_the_tap_mixer_is_calibrated(self, tmp_path: Path) -> None:
        host = tiny_host()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            head = DepthHead.for_tower(
                host, architecture="tap-mixer", taps=(0, 2), channels=(16, 8), attention=0, convolutions=(1, 1)
            )
        trainer = DepthTrainer(host, head, recipe=RECOMMENDED, protocol=PROTOCOL)
        result = trainer.fit(scenes(16), scenes(6, seed=1), tmp_path / "out", trained_on="x", progress=False)
        assert result.calibration is not None
        with attach_depth_head(host.eval(), result.head) as depth:
            again = evaluate(depth, scenes(6, seed=1), protocol=PROTOCOL)
        assert again.coverage == pytest.approx(result.calibration.after, abs=0.01)


class Meddler(list):
    """Samples that come with a change to the host."""

    host: nn.Module

    def __getitem__(self, index: int) -> DepthSample:  # type: ignore[override]
        with torch.no_grad():
            self.host.pos_embed.add_(1e-7)
        return super().__getitem__(index)


def test_a_host_that_moves_is_an_error(tmp_path: Path) -> None:
    host = tiny_host()
    train = Meddler(scenes(16))
    train.host = host
    with pytest.raises(TrainingError, match="the host changed"):
        fit(tmp_path / "out", host, train=train)
    assert not (tmp_path / "out" / "head").exists()


def test_an_impossible_record_is_refused_at_once(tmp_path: Path) -> None:
    host = tiny_host()
    trainer = DepthTrainer(host, tiny_head(host), recipe=RECIPE, protocol=PROTOCOL)
    with pytest.raises(ConfigError, match="trained_on"):
        trainer.fit(scenes(8), scenes(2, seed=1), tmp_path / "out", trained_on="a\nb", progress=False)
    assert not (tmp_path / "out").exists()


def with_depth(sample: DepthSample, value: float) -> DepthSample:
    depth = np.full_like(sample.depth_m, value)
    return DepthSample(sample.image, depth, "list.txt:7 bad.jpg")


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        ({"train": []}, "empty"),
        ({"validation": []}, "empty"),
        ({"train": [with_depth(s, 0.0) for s in scenes(8)]}, "bad.jpg: no ground truth"),
        ({"validation": [with_depth(s, 50.0) for s in scenes(2)]}, "bad.jpg"),
    ],
)
def test_failures_leave_no_hook_and_no_head(tmp_path: Path, sources: dict, message: str) -> None:
    host = tiny_host()
    with pytest.raises(SpaceClipError, match=message):
        fit(tmp_path / "out", host, **sources)
    assert not any(module._forward_hooks for module in host.modules())
    assert not (tmp_path / "out" / "head").exists()
    assert not (tmp_path / "out" / "cache").exists()


def test_a_loss_that_is_not_finite_names_its_images(tmp_path: Path) -> None:
    host = tiny_host()
    trainer = DepthTrainer(host, tiny_head(host), recipe=RECIPE, protocol=PROTOCOL)
    with torch.no_grad():
        next(trainer.head.parameters()).fill_(float("nan"))
    with pytest.raises(TrainingError, match=r"loss is nan at step 0 on tabletop"):
        trainer.fit(scenes(8), scenes(2, seed=1), tmp_path / "out", trained_on="scenes", progress=False)
