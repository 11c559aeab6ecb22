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
from train_flags import RECIPE_FLAGS, RUN_FLAGS, arguments_of, listed

from spaceclip_plugin.cli import main, train
from spaceclip_plugin.cli.train_config import new_run
from spaceclip_plugin.data.sources.depth_list import ListData
from spaceclip_plugin.data.sources.image_folder import FolderData
from spaceclip_plugin.errors import ConfigError
from spaceclip_plugin.training.config.recipe import RECIPES, Recipe
from spaceclip_plugin.training.config.run_config import HeadChoice, RunConfig, WeightedSource
from spaceclip_worlds.render.tabletop import SceneData

HOST = ["--host", "python:small_world:tiny_host", "--protocol", "spaceclip-nyu"]
NEEDED = ["--host", "h", "--data", "a", "--val", "b", "--out", "c"]
EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "training" / "distillation.yaml"


def config_of(*argv: str) -> RunConfig:
    return new_run(arguments_of(*NEEDED, *argv))


def recipe_of(*argv: str) -> Recipe:
    return config_of(*argv).recipe


def test_flags_alone() -> None:
    config = config_of()
    assert config == RunConfig(host="h", data=listed("a"), validation=listed("b"))
    assert config.head == HeadChoice("tap-mixer")


def test_a_recipe_by_name() -> None:
    assert recipe_of() == recipe_of("--recipe", "recommended") == Recipe()
    assert recipe_of("--recipe", "published") == RECIPES["published"]
    assert recipe_of("--recipe", "published-kitti") == RECIPES["published-kitti"]


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize(("flag", "field", "value"), RECIPE_FLAGS)
def test_a_flag_changes_its_setting_alone(name: str, flag: str, field: str, value: object) -> None:
    base = recipe_of("--recipe", name)
    assert recipe_of("--recipe", name, flag, str(value)) == dataclasses.replace(base, **{field: value})


def test_depth_maps_as_they_are() -> None:
    assert recipe_of("--target-side", "0").target_side is None


def test_the_published_recipe_is_for_the_published_head() -> None:
    for argv, name in (
        ([], "tap-mixer"),
        (["--recipe", "published"], "space-clip"),
        (["--recipe", "published-kitti"], "space-clip"),
        (["--recipe", "published", "--arch", "tap-mixer"], "tap-mixer"),
    ):
        assert config_of(*argv).head == HeadChoice(name)


class TestFlagsOverAConfig:
    @pytest.fixture
    def file(self, tmp_path: Path) -> Path:
        """A config in which nothing is as it would be without it."""
        config = RunConfig(
            host="timm:x",
            host_weights=Path("/w.safetensors"),
            image_hw=(96, 128),
            image_mean=(0.5, 0.25, 0.125),
            image_std=(1.0, 2.0, 3.0),
            tower="t",
            adapter="siglip",
            device="cuda:7",
            protocol="whole-image",
            depth_range_m=(0.5, 3.0),
            data=(WeightedSource(ListData("/d"), 2.0), WeightedSource(SceneData(9), 1.0)),
            validation=listed("/v"),
            test=listed("/t"),
            skip_bad=False,
            focal_length=(0.5, 0.5),
            head=HeadChoice("tap-mixer", {"attention": 0}, "fine"),
            recipe=Recipe(
                epochs=2, batch_size=3, accumulation=3, learning_rate=0.5, weight_decay=0.125, ema_decay=0.25,
                augmentation="published-nyu", views=4, cache="fp16", target_side=99, seed=5, warmup=0.5,
            ),
            workers=1,
            save_every=9,
            cache=Path("/c"),
            log_with="tensorboard",
        )  # fmt: skip
        path = tmp_path / "run.yaml"
        path.write_text(config.to_yaml())
        return path

    def test_no_flag_changes_nothing(self, file: Path) -> None:
        assert new_run(arguments_of("--config", str(file), "--out", "o")) == RunConfig.from_file(file)

    @pytest.mark.parametrize(("argv", "field", "value"), RUN_FLAGS)
    def test_a_flag_goes_before_the_config(self, file: Path, argv: list[str], field: str, value: object) -> None:
        changed = new_run(arguments_of("--config", str(file), "--out", "o", *argv))
        assert changed == dataclasses.replace(RunConfig.from_file(file), **{field: value})

    @pytest.mark.parametrize(("flag", "field", "value"), RECIPE_FLAGS)
    def test_a_flag_of_the_recipe(self, file: Path, flag: str, field: str, value: object) -> None:
        base = RunConfig.from_file(file)
        changed = new_run(arguments_of("--config", str(file), "--out", "o", flag, str(value)))
        assert changed == dataclasses.replace(base, recipe=dataclasses.replace(base.recipe, **{field: value}))

    def test_a_named_recipe_replaces_that_of_the_config_and_no_more(self, file: Path) -> None:
        changed = new_run(arguments_of("--config", str(file), "--out", "o", "--recipe", "published", "--epochs", "4"))
        assert changed == dataclasses.replace(
            RunConfig.from_file(file), recipe=dataclasses.replace(RECIPES["published"], epochs=4)
        )

    def test_options_of_the_head(self, file: Path) -> None:
        def head(*argv: str) -> HeadChoice:
            return new_run(arguments_of("--config", str(file), "--out", "o", *argv)).head

        assert head("--set", "dropout=0.5") == HeadChoice("tap-mixer", {"attention": 0, "dropout": 0.5}, "fine")
        assert head("--set", "attention=0", "--set", "dropout=0.2") == HeadChoice(
            "tap-mixer", {"attention": 0, "dropout": 0.2}, "fine"
        )
        assert head("--arch", "tap-mixer") == HeadChoice("tap-mixer", {"attention": 0}, "fine")
        assert head("--preset", "standard") == HeadChoice("tap-mixer")
        assert head("--arch", "space-clip", "--set", "film_hidden=null") == HeadChoice(
            "space-clip", {"film_hidden": None}
        )

    def test_every_flag_is_in_these_tests(self) -> None:
        tested = {flag for flag, _, _ in RECIPE_FLAGS} | {argv[0] for argv, _, _ in RUN_FLAGS}
        elsewhere = {
            "--config",
            "--resume",
            "--out",
            "--root",
            "--ray-distance",
            "--camera",
            "--stride",
            "--episodes",
            "--recipe",
            "--set",
        }
        assert {"--" + name.replace("_", "-") for name in vars(arguments_of())} == tested | elsewhere

    def test_no_flag_has_a_default_that_a_config_would_lose_to(self) -> None:
        assert set(vars(arguments_of()).values()) == {None}

    def test_a_file_cannot_name_a_function_but_the_user_can(self, tmp_path: Path) -> None:
        path = tmp_path / "run.yaml"
        path.write_text("host: python:evil:run\ndata: [{source: scenes, count: 1}]\nvalidation: []\n")
        with pytest.raises(ConfigError, match=r"run\.yaml: host 'python:evil:run' would run a function"):
            new_run(arguments_of("--config", str(path), "--out", "o", "--val", "b"))
        argv = ["--config", str(path), "--out", "o", "--val", "b", "--host", "python:mine:build"]
        assert new_run(arguments_of(*argv)).host == "python:mine:build"

    def test_the_documented_use(self) -> None:
        argv = ["--host", "timm:x", "--data", "a", "--data", "folder:b", "--val", "c", "--out", "o"]
        config = new_run(arguments_of("--config", str(EXAMPLE), *argv))
        assert config.data == (*listed("a"), WeightedSource(FolderData("b")))
        assert (config.host, config.validation, config.protocol) == ("timm:x", listed("c"), "whole-image")


class TestRoot:
    def test_it_is_for_every_list_and_nothing_else(self) -> None:
        config = config_of("--data", "scenes:2", "--test", "t", "--root", "photos")
        assert config.data == (*listed_at("photos", "a"), WeightedSource(SceneData(2)))
        assert (config.validation, config.test) == (listed_at("photos", "b"), listed_at("photos", "t"))

    def test_without_a_list_it_means_nothing(self) -> None:
        argv = ["--host", "h", "--data", "scenes:2", "--val", "scenes:1:1", "--out", "o", "--root", "photos"]
        with pytest.raises(ConfigError, match="--root 'photos' is for the paths in a list"):
            new_run(arguments_of(*argv))


class TestDepth:
    """What --units-per-metre and --ray-distance say of a run's data."""

    def test_a_unit_is_the_runs_where_a_source_has_none(self, tmp_path: Path) -> None:
        config = config_of("--units-per-metre", "5000")
        assert config.units_per_metre == 5000.0
        assert config.data == listed("a")
        (tmp_path / "run.yaml").write_text(config.to_yaml())
        assert RunConfig.from_file(tmp_path / "run.yaml").units_per_metre == 5000.0
        assert config_of().units_per_metre is None

    def test_a_unit_that_no_source_takes_is_refused(self) -> None:
        argv = ["--host", "h", "--data", "scenes:2", "--val", "lerobot:org/name", "--out", "o"]
        with pytest.raises(ConfigError, match="--units-per-metre 5000 is for lists and folders"):
            new_run(arguments_of(*argv, "--units-per-metre", "5000"))

    @pytest.mark.parametrize("text", ["0", "-1", "nan", "inf", "1e9"])
    def test_units_that_cannot_be(self, text: str) -> None:
        with pytest.raises(ConfigError, match="units_per_metre must be a number from"):
            config_of("--units-per-metre", text)

    def test_distance_along_the_ray_is_kept_with_every_list_and_folder(self, tmp_path: Path) -> None:
        config = config_of("--data", "scenes:2", "--data", "folder:f", "--ray-distance")
        ray = WeightedSource(ListData("a", distance="ray"))
        assert config.data == (ray, WeightedSource(SceneData(2)), WeightedSource(FolderData("f", distance="ray")))
        assert config.validation == (WeightedSource(ListData("b", distance="ray")),)
        (tmp_path / "run.yaml").write_text(config.to_yaml())
        again = RunConfig.from_file(tmp_path / "run.yaml")
        assert [getattr(part.source, "distance", None) for part in again.data] == ["ray", None, "ray"]

    def test_distance_along_the_ray_of_nothing_is_refused(self) -> None:
        argv = ["--host", "h", "--data", "scenes:2", "--val", "scenes:1:1", "--out", "o", "--ray-distance"]
        with pytest.raises(ConfigError, match="--ray-distance is for the depth of lists and folders"):
            new_run(arguments_of(*argv))


def listed_at(root: str, path: str) -> tuple[WeightedSource, ...]:
    return (WeightedSource(ListData(path, root)),)


class TestUsage:
    @pytest.mark.parametrize(
        ("argv", "missing"),
        [
            ([], "--host, --data, --val, --out missing"),
            (["--data", "a", "--host", "h"], "--val, --out missing"),
            (["--config", str(EXAMPLE)], "train: --out missing"),
            (["--out", "o", "--recipe", "published"], "--host, --data, --val missing"),
        ],
    )
    def test_what_is_missing_is_named(self, argv: list[str], missing: str, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit) as exit_info:
            main(["train", *argv])
        assert exit_info.value.code == 2
        assert missing in capsys.readouterr().err

    @pytest.mark.parametrize("text", ["1", "1,2,3", "a,b", "", "0.1;2"])
    def test_ranges_that_are_none(self, text: str, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit) as exit_info:
            arguments_of("--depth-range", text)
        assert exit_info.value.code == 2
        assert "expected MIN,MAX" in capsys.readouterr().err

    @pytest.mark.parametrize("text", ["2,1", "nan,1", "0,1", "0.1,inf"])
    def test_ranges_that_cannot_be(self, text: str) -> None:
        with pytest.raises(ConfigError, match="depth_range_m"):
            config_of("--depth-range", text)

    def test_validation_on_a_test_list(self) -> None:
        with pytest.raises(ConfigError, match=r"'eigen_test\.txt' is named like a test set"):
            config_of("--val", "eigen_test.txt")
        assert config_of("--val", "eigen_test.txt", "--select-on-test").select_on_test


def options_of(*argv: str) -> dict[str, object]:
    return dict(config_of(*argv).head.options)


def test_options_of_the_head() -> None:
    assert options_of() == {}
    given = ["--set", "attention=0", "--set", "taps=[3, 6]", "--set", "uncertainty=false"]
    assert options_of(*given) == {"attention": 0, "taps": [3, 6], "uncertainty": False}
    assert options_of("--arch", "space-clip", "--set", "film_hidden=null") == {"film_hidden": None}


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("atention=0", "'tap-mixer'.*'atention' .did you mean 'attention'"),
        ("base_model=1", "'base_model'"),
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
    for words in (
        "recommended 8, published 32, published-kitti 64",
        "recommended relative, published published",
        "passes over",
        "folder:DIR",
    ):
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


@pytest.mark.slow
def test_a_head_without_uncertainty_says_nothing_of_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lists = ["--data", str(write_list(tmp_path, 4, 0)), "--val", str(write_list(tmp_path, 1, 1))]
    argv = [*HOST, *lists, "--arch", "space-clip", "--recipe", "published", "--epochs", "1", "--out"]
    assert main(["train", *argv, str(tmp_path / "run")]) == 0
    assert "uncertainty" not in capsys.readouterr().out
    assert json.loads((tmp_path / "run" / "run.json").read_text())["recipe"]["views"] == 2
