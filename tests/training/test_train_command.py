"""`spaceclip train` and the recipes: what a flag changes and what it leaves, and what is said of uncertainty."""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_world import scenes

from spaceclip_plugin.cli import main, train
from spaceclip_plugin.errors import ConfigError
from spaceclip_plugin.training.recipe import Recipe

HOST = ["--host", "python:small_world:tiny_host", "--protocol", "spaceclip-nyu"]


def recipe_of(*argv: str) -> Recipe:
    parser = argparse.ArgumentParser()
    train.add_arguments(parser)
    args = parser.parse_args(["--host", "h", "--data", "a", "--val", "b", "--out", "c", *argv])
    return train.settings(args).recipe


def test_a_recipe_by_name() -> None:
    assert recipe_of() == recipe_of("--recipe", "recommended") == Recipe()
    assert recipe_of("--recipe", "published") == Recipe.published()


@pytest.mark.parametrize("name", ["recommended", "published"])
@pytest.mark.parametrize(
    ("flag", "field", "value"),
    [
        ("--epochs", "epochs", 3),
        ("--batch-size", "batch_size", 5),
        ("--lr", "learning_rate", 0.25),
        ("--weight-decay", "weight_decay", 0.0),
        ("--ema-decay", "ema_decay", 0.5),
        ("--loss", "loss", "relative"),
        ("--loss", "loss", "published"),
        ("--views", "views", 1),
        ("--target-side", "target_side", 200),
        ("--precision", "precision", "bf16"),
        ("--seed", "seed", 9),
    ],
)
def test_a_flag_changes_its_setting_alone(name: str, flag: str, field: str, value: object) -> None:
    base = recipe_of("--recipe", name)
    assert recipe_of("--recipe", name, flag, str(value)) == dataclasses.replace(base, **{field: value})


def test_depth_maps_as_they_are() -> None:
    assert recipe_of("--target-side", "0").target_side is None


def test_the_published_recipe_is_for_the_published_head() -> None:
    for argv, name in (
        ([], "tap-mixer"),
        (["--recipe", "published"], "space-clip"),
        (["--recipe", "published", "--arch", "tap-mixer"], "tap-mixer"),
    ):
        parser = argparse.ArgumentParser()
        train.add_arguments(parser)
        words = ["--host", "h", "--data", "a", "--val", "b", "--out", "c", *argv]
        assert train.settings(parser.parse_args(words)).architecture == name


def options_of(*argv: str) -> dict[str, object]:
    parser = argparse.ArgumentParser()
    train.add_arguments(parser)
    args = parser.parse_args(["--host", "h", "--data", "a", "--val", "b", "--out", "c", *argv])
    return train.settings(args).options


def test_options_of_the_head() -> None:
    assert options_of() == {}
    given = ["--set", "attention=0", "--set", "taps=[3, 6]", "--set", "uncertainty=false"]
    assert options_of(*given) == {"attention": 0, "taps": [3, 6], "uncertainty": False}
    assert options_of("--arch", "space-clip", "--set", "film_hidden=null") == {"film_hidden": None}


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("atention=0", "tap-mixer has no option 'atention' .did you mean 'attention'"),
        ("base_model=1", "has no option 'base_model'"),
        ("attention", "value is not JSON"),
        ("taps=1,2", "value is not JSON"),
        ("taps=" + 100_000 * "[", "value is not JSON"),
        ("dropout=" + 5000 * "1", "--set dropout"),
        ("attention=99", "attention must be an integer from 0 to 16"),
    ],
)
def test_options_that_are_none(setting: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        options_of("--set", setting)


def test_help_tells_the_recipes_apart() -> None:
    parser = argparse.ArgumentParser()
    train.add_arguments(parser)
    said = " ".join(parser.format_help().split())
    for words in ("recommended 8, published 32", "recommended relative, published published", "passes over"):
        assert words in said
    assert "--no-mirror" not in said


def write_list(folder: Path, count: int, seed: int) -> Path:
    lines = []
    for i, scene in enumerate(scenes(count, seed)):
        Image.fromarray(scene.image).save(folder / f"{seed}_{i}.png")
        Image.fromarray((scene.depth_m * 1000).astype(np.uint16)).save(folder / f"{seed}_{i}_depth.png")
        lines.append(f"{seed}_{i}.png {seed}_{i}_depth.png")
    path = folder / f"list_{seed}.txt"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_uncertainty_is_reported_from_training_to_evaluation(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lists = ["--data", str(write_list(tmp_path, 8, 0)), "--val", str(write_list(tmp_path, 3, 1))]
    small = ["--arch", "tap-mixer", "--epochs", "1", "--views", "3"]
    assert main(["train", *HOST, *lists, *small, "--out", str(tmp_path / "run")]) == 0
    assert "uncertainty rescaled by" in capsys.readouterr().out
    assert main(["train", *HOST, *lists, *small, "--out", str(tmp_path / "again"), "--json"]) == 0
    trained = json.loads(capsys.readouterr().out)["uncertainty"]
    evaluation = ["eval", *HOST, "--head", str(tmp_path / "run" / "head"), "--data", lists[3]]
    assert main(evaluation) == 0
    assert "in intervals of the predicted uncertainty: 50 % " in capsys.readouterr().out
    assert main([*evaluation, "--json"]) == 0
    coverage = json.loads(capsys.readouterr().out)["coverage"]
    assert coverage == pytest.approx(trained["after"], abs=0.02)
    assert main([*evaluation, "--flip", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["coverage"] is None


def test_a_head_without_uncertainty_says_nothing_of_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lists = ["--data", str(write_list(tmp_path, 4, 0)), "--val", str(write_list(tmp_path, 1, 1))]
    argv = [*HOST, *lists, "--arch", "space-clip", "--recipe", "published", "--epochs", "1", "--out"]
    assert main(["train", *argv, str(tmp_path / "run")]) == 0
    assert "uncertainty" not in capsys.readouterr().out
    assert json.loads((tmp_path / "run" / "run.json").read_text())["recipe"]["views"] == 2
