"""A run that is stopped at any step and continued ends with the same bits as one that is not."""

from __future__ import annotations

import dataclasses
import json
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from scripts import script_environment
from small_world import PROTOCOL, RESUMED, scenes, tiny_host, tiny_mixer
from stopped_runs import fit, fit_until

from spaceclip_plugin.data.sources.mixture import Mixture
from spaceclip_plugin.errors import CheckpointError, TrainingError
from spaceclip_plugin.evaluation.protocol import FractionRegion
from spaceclip_plugin.training import DepthTrainer, RunOptions
from spaceclip_plugin.training.config.recipe import Recipe
from spaceclip_plugin.training.optimizer import HeadOptimizer
from spaceclip_plugin.training.run.checkpoint import Checkpoint, CheckpointFolder
from spaceclip_plugin.training.run.folder import RunFolder

STEPS = 12  # two epochs of 18 + 6 images in fours


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """A finished run keeps its checkpoints, to be compared."""
    monkeypatch.setattr(RunFolder, "clean", lambda self: None)


def final(out: Path) -> Checkpoint:
    newest = CheckpointFolder(out / "checkpoints").newest()
    assert newest is not None
    for epoch in newest.state["history"]:
        epoch.pop("seconds")
    return newest


def assert_equal_runs(one: Path, other: Path) -> None:
    first, second = final(one), final(other)
    assert (first.step, first.state) == (second.step, second.state)
    assert first.tensors.keys() == second.tensors.keys() == {"head", "average", "optimizer", "best", "rng-0"}
    for stem, tensors in first.tensors.items():
        assert tensors.keys() == second.tensors[stem].keys()
        assert tensors
        for name, value in tensors.items():
            assert torch.equal(value, second.tensors[stem][name]), f"{stem}: {name}"
    assert (one / "head" / "model.safetensors").read_bytes() == (other / "head" / "model.safetensors").read_bytes()
    lines = [[json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()] for run in (one, other)]
    for epochs in lines:
        assert [epoch.pop("seconds") >= 0 for epoch in epochs] == [True, True]
    assert lines[0] == lines[1]


@pytest.mark.usefixtures("kept")
@pytest.mark.parametrize(
    ("cache", "workers", "steps"),
    [
        pytest.param("fp16", 0, (1, 6, 9), id="three steps"),
        *(
            pytest.param(
                cache, workers, range(1, STEPS + 1), marks=pytest.mark.slow, id=f"every step {cache} {workers}"
            )
            for cache in ("fp16", "none")
            for workers in (0, 2)
        ),
    ],
)
def test_stopped_at_any_step_of_two_epochs(tmp_path: Path, cache: str, workers: int, steps: Sequence[int]) -> None:
    recipe = Recipe(**{**vars(RESUMED), "cache": cache})
    whole = tmp_path / "whole"
    fit(whole, recipe, save_every=2)
    assert final(whole).step == STEPS
    for step in steps:
        out = tmp_path / f"stopped-{step}"
        fit_until(step, out, recipe, save_every=2, workers=workers)
        fit(out, recipe, save_every=2, workers=workers, resume=True)
        assert_equal_runs(whole, out)
        assert json.loads((out / "run.json").read_text())["continued_at_step"] == (step - 1) // 2 * 2


@pytest.mark.slow
@pytest.mark.usefixtures("kept")
def test_stopped_again_and_again(tmp_path: Path) -> None:
    fit(tmp_path / "whole")
    out = tmp_path / "stopped"
    for step in (1, 7, 9):
        fit_until(step, out, resume=out.exists())
    fit(out, resume=True)
    assert_equal_runs(tmp_path / "whole", out)


@pytest.mark.slow
@pytest.mark.usefixtures("kept")
def test_dropout_is_drawn_as_if_nothing_had_happened(tmp_path: Path) -> None:
    """The control: without the random state the bits would differ, so the equality above means something."""
    fit(tmp_path / "whole", save_every=2)
    out = tmp_path / "stopped"
    fit_until(4, out, save_every=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("spaceclip_plugin.training.loop.set_rng_state", lambda *_: None)
        fit(out, save_every=2, resume=True)
    assert final(tmp_path / "whole").state != final(out).state


@pytest.mark.slow
@pytest.mark.usefixtures("kept")
@pytest.mark.parametrize("step", [1, 8])
def test_the_weights_a_head_is_given_do_not_matter_to_a_run_that_has_begun(tmp_path: Path, step: int) -> None:
    fit(tmp_path / "whole")
    out = tmp_path / "stopped"
    fit_until(step, out)
    host = tiny_host()
    head = tiny_mixer(host)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.add_(1.0)
    train = Mixture([scenes(18), scenes(6, seed=5)], weights=[1, 1])
    trainer = DepthTrainer(host, head, recipe=RESUMED, protocol=PROTOCOL)
    trainer.fit(train, scenes(5, seed=1), out, trained_on="scenes", options=RunOptions(resume=True, progress=False))
    assert_equal_runs(tmp_path / "whole", out)
    assert not head.training


@pytest.mark.slow
@pytest.mark.usefixtures("kept")
def test_ctrl_c_saves_and_says_nothing_more(tmp_path: Path) -> None:
    fit(tmp_path / "whole")
    out, update = tmp_path / "stopped", HeadOptimizer._update

    def interrupting(self: HeadOptimizer) -> None:
        if self.step == 3:
            signal.raise_signal(signal.SIGINT)  # in the middle of a step
        update(self)

    before = signal.getsignal(signal.SIGINT)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(HeadOptimizer, "_update", interrupting)
        with pytest.raises(KeyboardInterrupt):
            fit(out)
    assert signal.getsignal(signal.SIGINT) is before
    assert final(out).step == 4  # the step is done first
    fit(out, resume=True)
    assert_equal_runs(tmp_path / "whole", out)


@pytest.mark.slow
def test_processes_killed_while_caching_training_and_saving(tmp_path: Path) -> None:
    script = Path(__file__).with_name("killed_run.py")

    def run(out: Path, moment: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(script), str(out), moment]
        return subprocess.run(command, env=script_environment(), capture_output=True, text=True)

    out = tmp_path / "killed"
    for moment in ("shard 2", "update 3", "save 5", "update 11", "publish"):
        done = run(out, moment)
        assert done.returncode == -signal.SIGKILL, done.stderr
    for whole in (out, tmp_path / "whole"):
        done = run(whole, "never")
        assert done.returncode == 0, done.stderr
    assert_equal_runs(tmp_path / "whole", out)


class TestRefusals:
    @pytest.fixture
    def stopped(self, tmp_path: Path) -> Path:
        out = tmp_path / "stopped"
        fit_until(9, out, save_every=4)
        return out

    def test_another_recipe(self, stopped: Path) -> None:
        before = sorted(stopped.rglob("*"))
        with pytest.raises(TrainingError, match=r": its recipe\.learning_rate was 0\.01, now it is 0\.001\. Give"):
            fit(stopped, Recipe(**{**vars(RESUMED), "learning_rate": 1e-3}), resume=True)
        assert sorted(stopped.rglob("*")) == before
        fit(stopped, resume=True)

    def test_other_weights_of_the_mixture(self, stopped: Path) -> None:
        host = tiny_host()
        trainer = DepthTrainer(host, tiny_mixer(host), recipe=RESUMED, protocol=PROTOCOL)
        train = Mixture([scenes(18), scenes(6, seed=5)], weights=[3, 1])
        with pytest.raises(TrainingError, match="its shares was"):
            trainer.fit(
                train, scenes(5, seed=1), stopped, trained_on="scenes", options=RunOptions(resume=True, progress=False)
            )

    def test_another_crop_under_the_same_name(self, stopped: Path) -> None:
        host = tiny_host()
        region = FractionRegion(0.0, 1.0, 0.0, 0.5)
        trainer = DepthTrainer(
            host, tiny_mixer(host), recipe=RESUMED, protocol=dataclasses.replace(PROTOCOL, region=region)
        )
        train = Mixture([scenes(18), scenes(6, seed=5)], weights=[1, 1])
        with pytest.raises(TrainingError, match=r": its protocol_settings\.region was null, now it is \{"):
            trainer.fit(
                train, scenes(5, seed=1), stopped, trained_on="scenes", options=RunOptions(resume=True, progress=False)
            )

    def test_other_data(self, stopped: Path) -> None:
        host = tiny_host()
        trainer = DepthTrainer(host, tiny_mixer(host), recipe=RESUMED, protocol=PROTOCOL)
        with pytest.raises(TrainingError, match=r": its train data was its source with SHA-256 \w{12}…, now it is"):
            trainer.fit(
                scenes(24),
                scenes(5, seed=1),
                stopped,
                trained_on="scenes",
                options=RunOptions(resume=True, progress=False),
            )

    def test_another_host(self, stopped: Path) -> None:
        host = tiny_host()
        with torch.no_grad():
            host.pos_embed.add_(1e-6)
        trainer = DepthTrainer(host, tiny_mixer(host), recipe=RESUMED, protocol=PROTOCOL)
        train = Mixture([scenes(18), scenes(6, seed=5)], weights=[1, 1])
        with pytest.raises(TrainingError, match="its host_digest_before was"):
            trainer.fit(
                train, scenes(5, seed=1), stopped, trained_on="scenes", options=RunOptions(resume=True, progress=False)
            )

    def test_a_damaged_checkpoint_is_no_reason_to_take_an_older_one(self, stopped: Path) -> None:
        newest = stopped / "checkpoints" / "step-00000008"
        content = bytearray((newest / "optimizer.safetensors").read_bytes())
        content[-1] ^= 1
        (newest / "optimizer.safetensors").write_bytes(content)
        with pytest.raises(CheckpointError, match=r"step-00000008.*optimizer\.safetensors.*step-00000006"):
            fit(stopped, resume=True)

    def test_a_run_that_is_finished(self, tmp_path: Path) -> None:
        fit(tmp_path / "out")
        with pytest.raises(TrainingError, match="is finished; its head is"):
            fit(tmp_path / "out", resume=True)

    def test_no_run_at_all(self, tmp_path: Path) -> None:
        with pytest.raises(TrainingError, match="there is no run to continue"):
            fit(tmp_path / "nothing", resume=True)

    def test_a_new_run_over_a_stopped_one(self, stopped: Path) -> None:
        with pytest.raises(TrainingError, match="already holds a run; continue it with --resume"):
            fit(stopped)

    def test_two_runs_at_once(self, stopped: Path) -> None:
        folder = RunFolder(stopped)
        record = json.loads((stopped / "run.json").read_text())
        folder.open(record, resume=True, config_yaml=None)
        with pytest.raises(TrainingError, match="another process is training in"):
            fit(stopped, resume=True)
        folder.close()
        fit(stopped, resume=True)
