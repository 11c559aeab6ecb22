"""A run end to end: the host stays, the best head is kept, the record is true, and failures leave nothing behind."""

from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from small_world import PROTOCOL, QUIET, scenes, tiny_head, tiny_host, tiny_mixer
from torch import nn

from spaceclip_plugin import DepthHead, attach_depth_head
from spaceclip_plugin._digest import module_digest
from spaceclip_plugin.data.sample import DepthSample
from spaceclip_plugin.errors import ConfigError, DataError, HeadMismatchError, SpaceClipError, TrainingError
from spaceclip_plugin.evaluation.evaluate import evaluate
from spaceclip_plugin.training import DepthTrainer, RunOptions, TrainingResult
from spaceclip_plugin.training import trainer as trainer_module
from spaceclip_plugin.training.cache.feature_cache import FeatureCache
from spaceclip_plugin.training.cache.maker import make_cache
from spaceclip_plugin.training.config.recipe import PUBLISHED, Recipe
from spaceclip_plugin.training.run import checkpoint as checkpoint_module

RECIPE = dataclasses.replace(PUBLISHED, epochs=4, batch_size=8, learning_rate=5e-3, ema_decay=0.9)
RECOMMENDED = Recipe(epochs=4, batch_size=8, learning_rate=2e-2, ema_decay=0.9, views=3, target_side=24)


def fit(out: Path, host: nn.Module | None = None, recipe: Recipe = RECIPE, **options: Any) -> TrainingResult:
    host = tiny_host() if host is None else host
    trainer = DepthTrainer(host, tiny_head(host), recipe=recipe, protocol=PROTOCOL)
    sources = {"train": scenes(24), "validation": scenes(6, seed=1), "test": None}
    sources |= {name: options.pop(name) for name in list(options) if name in sources}
    return trainer.fit(
        sources["train"],
        sources["validation"],
        out,
        trained_on="24 scenes",
        test=sources["test"],
        options=RunOptions(progress=False, **options),
    )


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

    def test_the_head_knows_its_tower_again(self, run: tuple) -> None:
        host, out, result, _ = run
        record = json.loads((out / "run.json").read_text())
        assert record["head"] == json.loads(json.dumps(result.head.config.to_dict()))
        with attach_depth_head(host, out / "head", other_tower="error") as depth:
            assert (depth.tower_match.verdict, depth.tower_match.distance) == ("same", 0.0)
        other = copy.deepcopy(host)
        with torch.no_grad():
            for parameter in other.parameters():
                parameter.mul_(1.05)
        with pytest.raises(HeadMismatchError, match="trained on another tower"):
            attach_depth_head(other, out / "head", other_tower="error")

    def test_only_results_remain(self, run: tuple) -> None:
        assert sorted(path.name for path in run[1].iterdir()) == [
            "README.md",
            "head",
            "metrics.jsonl",
            "run.json",
            "validation.png",
        ]
        with Image.open(run[1] / "validation.png") as picture:
            assert len(picture.convert("RGB").getcolors(1 << 20)) > 500  # photos and colour maps, not a blank page
        record = json.loads((run[1] / "run.json").read_text())
        assert record["finished"]
        assert record["head_digest"] == module_digest(DepthHead.from_pretrained(run[1] / "head"))
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


@pytest.mark.slow
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
    trainer.fit(scenes(16), scenes(4, seed=1), tmp_path / "out", trained_on="scenes", options=QUIET)
    assert not DepthHead.from_pretrained(tmp_path / "out" / "head").uses_context


def test_the_recommended_recipe_learns_too(tmp_path: Path) -> None:
    fit(tmp_path / "out", recipe=RECOMMENDED)
    losses = [line["loss"] for line in lines(tmp_path / "out")]
    assert losses[-1] < 0.8 * losses[0]


def test_the_cache_is_made_as_the_recipe_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[FeatureCache, dict]] = []

    def making(*args: Any, **options: Any) -> FeatureCache:
        cache = make_cache(*args, **options)
        made.append((cache, options))
        return cache

    monkeypatch.setattr(trainer_module, "make_cache", making)
    fit(tmp_path / "out", recipe=dataclasses.replace(RECOMMENDED, epochs=1, seed=5))
    (train, train_options), (validation_set, _) = made
    assert (len(train), train.versions, train.target_hw, train_options["settings"].seed) == (24, 3, (24, 24), 5)
    # Validation is of the images as photographed, and scored on the samples themselves.
    assert (len(validation_set), validation_set.versions, validation_set.load([0], [0])["target_m"].numel()) == (
        6,
        1,
        0,
    )


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
        trainer.fit(scenes(8), scenes(2, seed=1), tmp_path / "out", trained_on="a\nb", options=QUIET)
    assert not (tmp_path / "out").exists()


def with_depth(sample: DepthSample, value: float) -> DepthSample:
    depth = np.full_like(sample.depth_m, value)
    return DepthSample(sample.image, depth, "list.txt:7 bad.jpg")


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        ({"train": []}, "empty"),
        ({"validation": []}, "empty"),
        ({"train": [with_depth(s, 0.0) for s in scenes(8)]}, "bad.jpg: none of 8"),
        ({"validation": [with_depth(s, 50.0) for s in scenes(2)]}, "bad.jpg"),
    ],
)
def test_failures_leave_no_hook_and_no_head(tmp_path: Path, sources: dict, message: str) -> None:
    host = tiny_host()
    with pytest.raises(SpaceClipError, match=message):
        fit(tmp_path / "out", host, **sources)
    assert not any(module._forward_hooks for module in host.modules())
    assert not (tmp_path / "out" / "head").exists()


def test_a_loss_that_is_not_finite_names_its_images(tmp_path: Path) -> None:
    host = tiny_host()
    trainer = DepthTrainer(host, tiny_head(host), recipe=RECIPE, protocol=PROTOCOL)
    with torch.no_grad():
        next(trainer.head.parameters()).fill_(float("nan"))
    with pytest.raises(TrainingError, match=r"loss is nan at step 0 on tabletop"):
        trainer.fit(scenes(8), scenes(2, seed=1), tmp_path / "out", trained_on="scenes", options=QUIET)


@pytest.mark.slow
@pytest.mark.parametrize(("cache", "tolerance"), [("fp16", 5e-4), ("int8", 1e-2)])
def test_cached_features_train_as_live_ones_do(tmp_path: Path, cache: str, tolerance: float) -> None:
    for name in (cache, "none"):
        host = tiny_host()
        recipe = dataclasses.replace(RECOMMENDED, epochs=2, learning_rate=1e-3, cache=name)
        trainer = DepthTrainer(host, tiny_mixer(host, dropout=0.0), recipe=recipe, protocol=PROTOCOL)
        trainer.fit(scenes(24), scenes(6, seed=1), tmp_path / name, trained_on="x", options=QUIET)
    kept, live = lines(tmp_path / cache), lines(tmp_path / "none")
    for one, other in zip(kept, live, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=tolerance)
        assert one["val_abs_rel"] == pytest.approx(other["val_abs_rel"], rel=tolerance)
    assert kept[0]["loss"] != live[0]["loss"]  # one of them was rounded


def test_a_host_that_could_be_trained_is_not(tmp_path: Path) -> None:
    host = tiny_host().train().requires_grad_(True)
    before = module_digest(host)
    fit(tmp_path / "out", host, recipe=dataclasses.replace(RECOMMENDED, cache="none", epochs=1))
    assert module_digest(host) == before
    assert host.training
    assert all(parameter.requires_grad and parameter.grad is None for parameter in host.parameters())
    assert not any(module._forward_hooks for module in host.modules())


@pytest.mark.slow
def test_a_cache_of_many_runs_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = dataclasses.replace(RECOMMENDED, epochs=1)
    first = fit(tmp_path / "one", recipe=recipe, cache=tmp_path / "caches")
    monkeypatch.setattr("spaceclip_plugin.training.cache.maker.write_shard", None)  # cannot be called
    second = fit(tmp_path / "two", recipe=recipe, cache=tmp_path / "caches")
    assert first.validation == second.validation
    assert len([path for path in (tmp_path / "caches").iterdir() if path.is_dir()]) == 2
    assert not (tmp_path / "one" / "cache").exists()


class TestTheTestSource:
    @pytest.mark.slow
    def test_it_is_looked_at_once(self, tmp_path: Path) -> None:
        host, test = tiny_host(), scenes(4, seed=9)
        result = fit(tmp_path / "out", host, test=test)
        with attach_depth_head(host.eval(), result.head) as depth:
            assert evaluate(depth, test, protocol=PROTOCOL).mean == result.test
        record = json.loads((tmp_path / "out" / "run.json").read_text())
        assert record["test"] == dataclasses.asdict(result.test)
        assert record["test_images"] == 4

    @pytest.mark.parametrize(("one", "other"), [("train", "validation"), ("train", "test"), ("validation", "test")])
    def test_an_image_in_two_sources_is_refused(self, tmp_path: Path, one: str, other: str) -> None:
        sources = {"train": scenes(8), "validation": scenes(4, seed=1), "test": scenes(4, seed=2)}
        same = sources[one][3]
        sources[other][2] = dataclasses.replace(same, name="list.txt:3 again.jpg", depth_m=same.depth_m + 0.1)
        message = rf"1 images of the {other} source are in the {one} source too, such as list\.txt:3 again\.jpg"
        with pytest.raises(DataError, match=rf"{message} \(tabletop"):
            fit(tmp_path / "out", **sources)
        assert not (tmp_path / "out").exists()


def test_depth_in_another_unit_is_told_with_its_median(tmp_path: Path) -> None:
    wrong = [dataclasses.replace(s, depth_m=s.depth_m / 10_000) for s in scenes(8)]
    with pytest.raises(DataError, match=r"median .*0\.00\d* m"):
        fit(tmp_path / "out", train=wrong)
    assert not (tmp_path / "out").exists()


def test_the_settings_are_kept(tmp_path: Path) -> None:
    fit(tmp_path / "out", recipe=dataclasses.replace(RECOMMENDED, epochs=1), config_yaml="host: x\n")
    assert (tmp_path / "out" / "config.yaml").read_text() == "host: x\n"


@pytest.mark.slow
def test_a_disk_that_is_full_when_a_checkpoint_is_saved_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = dataclasses.replace(RECOMMENDED, epochs=3)
    whole = fit(tmp_path / "whole", recipe=recipe)
    write = checkpoint_module._write

    def full(path: Path, content: bytes) -> None:
        if path.parent.name.startswith(".step-00000006"):
            raise OSError(28, "No space left on device", str(path))
        write(path, content)

    monkeypatch.setattr(checkpoint_module, "_write", full)
    with pytest.raises(TrainingError, match=r"No space left on device.*step-00000003' is intact"):
        fit(tmp_path / "out", recipe=recipe)
    monkeypatch.undo()
    result = fit(tmp_path / "out", recipe=recipe, resume=True)
    assert result.validation == whole.validation
