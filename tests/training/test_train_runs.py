"""Runs of `spaceclip train` from a file, stopped and continued; what is recorded and who speaks."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_world
import torch
from PIL import Image
from torch import Tensor, nn
from train_flags import RECIPE_FLAGS, RUN_FLAGS, arguments_of

from spaceclip_plugin import DepthHead
from spaceclip_plugin.cli import main
from spaceclip_plugin.cli.train_config import resumed_run
from spaceclip_plugin.data.sources.mixture import Mixture
from spaceclip_plugin.errors import ConfigError
from spaceclip_plugin.evaluation.metrics import DepthMetrics
from spaceclip_plugin.head.tap_mixer import TapMixerOptions
from spaceclip_plugin.training import DepthTrainer, RunOptions, TrainingResult
from spaceclip_plugin.training.config.run_config import RunConfig

HOST = ["--host", "python:small_world:tiny_host"]
SIDE = "height_px: 32, width_px: 32"
CONFIG = f"""\
protocol: whole-image
data: [{{source: scenes, count: 6, weight: 1, {SIDE}}}, {{source: scenes, count: 3, seed: 5, weight: 2, {SIDE}}}]
validation: [{{source: scenes, count: 2, seed: 1, {SIDE}}}]
test: [{{source: scenes, count: 2, seed: 2, {SIDE}}}]
head: {{options: {{attention: 0, channels: [8, 6], convolutions: [1, 1]}}}}
recipe: {{epochs: 2, batch_size: 3, learning_rate: 1e-3, views: 2, cache: none}}
"""
ALLOWED = [words for words, _, _ in RUN_FLAGS if words[0] in ("--device", "--workers", "--cache", "--log-with")]
REFUSED = [
    *(words for words, _, _ in RUN_FLAGS if words not in ALLOWED and words[0] != "--host"),
    *([flag, str(value)] for flag, _, value in RECIPE_FLAGS),
    *(["--config", "x"], ["--out", "x"], ["--recipe", "published"], ["--set", "a=1"], ["--root", "x"]),
]
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*argv: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main(["train", *map(str, argv)])
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "settings.yaml"
    path.write_text(CONFIG)
    return path


@pytest.fixture
def write_list(tmp_path: Path) -> Callable[[str], Path]:
    """A list of one pair, of that name."""

    def write_list(name: str) -> Path:
        [scene] = small_world.scenes(1)
        Image.fromarray(scene.image).save(tmp_path / "rgb.png")
        Image.fromarray((scene.depth_m * 1000).astype(np.uint16)).save(tmp_path / "depth.png")
        (tmp_path / name).write_text("rgb.png depth.png\n")
        return tmp_path / name

    return write_list


def interrupted_host(*, at: int) -> nn.Module:
    """Someone presses Ctrl-C while it looks at its image number `at`."""
    host = small_world.tiny_host()
    seen = 0

    def look(_: nn.Module, inputs: tuple[Tensor]) -> None:
        nonlocal seen
        before, seen = seen, seen + len(inputs[0])
        if before < at <= seen:
            os.kill(os.getpid(), signal.SIGINT)

    host.blocks[0].register_forward_pre_hook(look)
    return host


def scores(out: str) -> dict[str, Any]:
    result = json.loads(out)
    return {key: result[key] for key in ("validation", "test", "uncertainty", "best_epoch", "host_digest")}


@pytest.mark.slow
def test_a_config_a_run_its_config_and_the_same_run_again(run: Run, file: Path, tmp_path: Path) -> None:
    code, out, _ = run("--config", file, *HOST, "--out", tmp_path / "run", "--json")
    assert code == 0
    first = scores(out)
    assert 0 < first["test"]["abs_rel"] != first["validation"]["abs_rel"]
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["recipe"]["cache"] == "none"
    details = record["details"]
    assert (details["data"], details["val"]) == ("scenes (6) + scenes (3, seed 5)", "scenes (2, seed 1)")
    assert (details["test"], details["select_on_test"]) == ("scenes (2, seed 2)", False)
    kept = tmp_path / "run" / "config.yaml"
    with pytest.raises(ConfigError, match="would run a function"):
        RunConfig.from_file(kept)
    config = RunConfig.from_file(kept, host="timm:x")
    assert [part.weight for part in config.data] == [1, 2]
    assert set(config.head.options) == {field.name for field in dataclasses.fields(TapMixerOptions)}
    assert run("--config", kept, "--out", tmp_path / "again")[0] == 1
    code, out, _ = run("--config", kept, *HOST, "--out", tmp_path / "again", "--json")
    assert (code, scores(out)) == (0, first)


@pytest.mark.slow
def test_a_stopped_run_goes_on_to_the_same_end(
    run: Run, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    argv = ["--config", file, *HOST, "--out"]
    code, out, _ = run(*argv, tmp_path / "whole", "--json")
    assert code == 0
    whole = scores(out)

    stopped = tmp_path / "stopped"
    host = interrupted_host(at=5)
    with monkeypatch.context() as patch:
        patch.setattr(small_world, "tiny_host", lambda: host)
        code, out, err = run(*argv, stopped, "--save-every", 1)
    assert (code, out) == (130, "")
    assert f"interrupted; continue with: spaceclip train --resume {stopped}" in err

    code, _, err = run("--resume", stopped)
    assert code == 1
    assert "config.yaml: host 'python:small_world:tiny_host' would run a function" in err
    code, _, err = run("--resume", stopped, "--host", "python:small_world:other_host")
    assert code == 1
    assert "is on host 'python:small_world:tiny_host', not on 'python:small_world:other_host'" in err
    code, out, _ = run("--resume", stopped, *HOST, "--json")
    assert (code, scores(out)) == (0, whole)
    code, _, err = run("--resume", stopped, *HOST)
    assert code == 1
    assert "is finished" in err


class TestResuming:
    """What may be said besides --resume."""

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        """A folder that looks like a run's, as far as its settings go."""
        folder = tmp_path / "run"
        folder.mkdir()
        (folder / "config.yaml").write_text(
            "host: timm:x\ndata: [{source: list, path: a.txt}]\nvalidation: [{source: scenes, count: 1}]\nworkers: 2\n"
        )
        return folder

    def test_the_runs_own_settings(self, folder: Path) -> None:
        config = resumed_run(arguments_of("--resume", str(folder)))
        assert config == RunConfig.from_file(folder / "config.yaml")
        assert config.data[0].source.path == str(folder / "a.txt")

    @pytest.mark.parametrize("argv", ALLOWED, ids=lambda argv: argv[0])
    def test_what_may_be_given(self, folder: Path, argv: list[str]) -> None:
        field, value = next((field, value) for words, field, value in RUN_FLAGS if words == argv)
        config = resumed_run(arguments_of("--resume", str(folder), *argv))
        assert config == dataclasses.replace(RunConfig.from_file(folder / "config.yaml"), **{field: value})

    def test_the_host_again(self, folder: Path) -> None:
        config = resumed_run(arguments_of("--resume", str(folder), "--host", "timm:x"))
        assert config == RunConfig.from_file(folder / "config.yaml")

    @pytest.mark.parametrize("argv", REFUSED, ids=lambda argv: argv[0])
    def test_what_may_not(self, folder: Path, argv: list[str]) -> None:
        with pytest.raises(argparse.ArgumentError, match=f"^{argv[0]} cannot be given with --resume"):
            resumed_run(arguments_of("--resume", str(folder), *argv))

    def test_it_is_wrong_usage(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit) as exit_info:
            main(["train", "--resume", str(folder), "--epochs", "3", "--skip-bad"])
        assert exit_info.value.code == 2
        assert "--skip-bad, --epochs cannot be given with --resume" in capsys.readouterr().err

    @pytest.mark.parametrize("name", ["absent", "."])
    def test_a_folder_without_a_run(self, run: Run, tmp_path: Path, name: str) -> None:
        code, out, err = run("--resume", tmp_path / name)
        assert (code, out) == (1, "")
        assert "there is no run to continue" in err
        assert "it holds no config.yaml" in err

    def test_settings_that_someone_cut(self, run: Run, folder: Path) -> None:
        (folder / "config.yaml").write_text("workers: 1\nhost: timm:x\n")
        code, _, err = run("--resume", folder)
        assert code == 1
        assert "config.yaml: data, validation missing" in err


@dataclasses.dataclass
class Fitted:
    """What a trainer was asked to do, instead of doing it."""

    sources: tuple[Any, ...]
    options: Mapping[str, Any]
    head: DepthHead


@pytest.fixture
def fitted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Fitted]:
    calls: list[Fitted] = []

    def fit(trainer: DepthTrainer, *sources: Any, **options: Any) -> TrainingResult:
        calls.append(Fitted(sources, options, trainer.head))
        metrics = DepthMetrics(**{field.name: 0.5 for field in dataclasses.fields(DepthMetrics)})
        tested = None if options["test"] is None else metrics
        return TrainingResult(trainer.head, tmp_path / "head", 1, metrics, "abc", 0.0, 0.0, None, tested)

    monkeypatch.setattr(DepthTrainer, "fit", fit)
    return calls


class TestWhatTheTrainerIsAsked:
    def test_every_setting_of_the_run(self, run: Run, fitted: list[Fitted], file: Path, tmp_path: Path) -> None:
        argv = ["--config", file, *HOST, "--out", tmp_path / "run", "--workers", 2, "--save-every", 5]
        code, out, _ = run(*argv, "--cache", tmp_path / "c", "--log-with", "tensorboard")
        assert code == 0
        [call] = fitted
        train, validation, folder = call.sources
        assert isinstance(train, Mixture)
        assert [(share.count, share.weight) for share in train.shares] == [(6, 1 / 3), (3, 2 / 3)]
        assert (len(validation), len(call.options["test"]), folder) == (2, 2, tmp_path / "run")
        wanted = RunOptions(workers=2, save_every=5, cache=tmp_path / "c", log_with="tensorboard")
        assert dataclasses.replace(call.options["options"], config_yaml=None) == wanted
        assert call.options["trained_on"] == "scenes (6) + scenes (3, seed 5) (9 images)"
        assert "scenes (2, seed 1) (2 images, whole-image, no flip)" in out
        assert "test: AbsRel 0.5000, RMSE 0.500 m, delta1 0.500 on scenes (2, seed 2)" in out

    def test_a_fresh_head_is_that_of_its_seed(self, run: Run, fitted: list[Fitted], file: Path, tmp_path: Path) -> None:
        for seed in (3, 3, 4):
            torch.rand(1)  # whoever drew before
            assert run("--config", file, *HOST, "--out", tmp_path / "run", "--seed", seed)[0] == 0
        first, again, other = (torch.cat([p.flatten() for p in call.head.parameters()]) for call in fitted)
        assert torch.equal(first, again)
        assert not torch.equal(first, other)

    def test_without_test_data(self, run: Run, fitted: list[Fitted], tmp_path: Path) -> None:
        argv = [*HOST, "--data", "scenes:3", "--val", "scenes:1:1", "--out", tmp_path / "run"]
        _, out, _ = run(*argv)
        assert fitted[0].options["test"] is None
        assert fitted[0].options["details"]["test"] is None
        assert "test:" not in out
        assert json.loads(run(*argv, "--json")[1])["test"] is None

    def test_a_range_of_depth_of_ones_own(self, run: Run, fitted: list[Fitted], file: Path, tmp_path: Path) -> None:
        argv = ["--config", file, *HOST, "--out", tmp_path / "run", "--depth-range", "0.25,4"]
        assert "whole-image 0.25-4 m" in run(*argv)[1]
        assert "depth_range_m: [0.25, 4.0]" in fitted[0].options["options"].config_yaml

    def test_selection_on_a_test_set_is_recorded(
        self, run: Run, fitted: list[Fitted], tmp_path: Path, write_list: Callable[[str], Path]
    ) -> None:
        listed = write_list("eigen_test.txt")
        argv = [*HOST, "--data", "scenes:3", "--val", listed, "--protocol", "whole-image", "--out", tmp_path / "run"]
        code, _, err = run(*argv)
        assert (code, fitted) == (1, [])
        assert "'eigen_test.txt' is named like a test set" in err
        code, out, _ = run(*argv, "--select-on-test")
        assert code == 0
        assert fitted[0].options["details"]["select_on_test"] is True
        assert "the best epoch may be chosen on a test set" in out

    def test_of_several_processes_one_speaks(
        self, run: Run, fitted: list[Fitted], file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        argv = ["--config", file, *HOST, "--out", tmp_path / "run", "--json"]
        for rank, speaks in (("0", True), ("1", False), ("12", False)):
            monkeypatch.setenv("RANK", rank)
            code, out, _ = run(*argv)
            assert (code, bool(out)) == (0, speaks)
        assert len(fitted) == 3

    def test_data_of_very_many_parts_has_a_title_that_fits(
        self, run: Run, fitted: list[Fitted], tmp_path: Path
    ) -> None:
        parts = [word for seed in range(60) for word in ("--data", f"scenes:1:{seed}")]
        assert run(*HOST, *parts, "--val", "scenes:1:99", "--out", tmp_path / "run")[0] == 0
        assert len(fitted[0].options["trained_on"]) < 500


@pytest.mark.parametrize("begun", [True, False])
def test_an_interruption_tells_how_to_go_on(
    run: Run, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, begun: bool
) -> None:
    def fit(trainer: DepthTrainer, train: object, validation: object, out: Path, **options: object) -> None:
        out.mkdir()
        if begun:
            (out / "config.yaml").touch()
        raise KeyboardInterrupt

    monkeypatch.setattr(DepthTrainer, "fit", fit)
    code, out, err = run("--config", file, *HOST, "--out", tmp_path / "run")
    assert (code, out) == (130, "")
    # A function as host must be named again: the run's own config may not ask for it.
    hint = f"; continue with: spaceclip train --resume {tmp_path / 'run'} {' '.join(HOST)}" if begun else ""
    assert err == f"spaceclip train: interrupted{hint}\n"
