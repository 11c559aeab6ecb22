"""What one process does alone; two are in test_several_processes."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
from small_world import PROTOCOL, RESUMED, scenes, tiny_host, tiny_mixer

from spaceclip_plugin.errors import ConfigError, TrainingError
from spaceclip_plugin.training import DepthTrainer, RunOptions
from spaceclip_plugin.training.processes import Processes, check_tracker, rng_state, set_rng_state


def test_alone_nothing_is_shared() -> None:
    processes = Processes(torch.device("cpu"))
    assert (processes.rank, processes.count, processes.main) == (0, 1, True)
    rows = torch.randn(4, 3, requires_grad=True)
    assert torch.equal(processes.joined(rows, [3]), rows[:3])
    assert processes.gathered("x") == ["x"]
    assert processes.on_main(lambda: 7) == 7
    assert processes.any(True)
    assert not processes.any(False)


def test_random_numbers_go_on_where_they_were() -> None:
    with torch.random.fork_rng(devices=[]):
        state = rng_state(torch.device("cpu"))
        first = torch.rand(3)
        set_rng_state(state, torch.device("cpu"))
        assert torch.equal(torch.rand(3), first)


def test_random_numbers_of_another_device_are_refused() -> None:
    state = {**rng_state(torch.device("cpu")), "cuda": torch.zeros(4, dtype=torch.uint8)}
    with pytest.raises(TrainingError, match="made on cpu and cuda, this run is on cpu"):
        set_rng_state(state, torch.device("cpu"))


class TestTrackers:
    def test_an_unknown_one(self) -> None:
        with pytest.raises(ConfigError, match=r"one of tensorboard, wandb, trackio, got 'tensorbord' .*'tensorboard'"):
            check_tracker("tensorbord")

    def test_one_that_is_not_installed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
        with pytest.raises(ConfigError, match="pip install trackio"):
            check_tracker("trackio")

    def test_a_run_writes_its_figures(self, tmp_path: Path) -> None:
        accumulator = pytest.importorskip(
            "tensorboard.backend.event_processing.event_accumulator", reason="tensorboard is not installed"
        )
        host = tiny_host()
        trainer = DepthTrainer(host, tiny_mixer(host), recipe=RESUMED, protocol=PROTOCOL)
        result = trainer.fit(
            scenes(24),
            scenes(4, seed=1),
            tmp_path / "out",
            trained_on="x",
            options=RunOptions(progress=False, log_with="tensorboard"),
        )
        [events] = [path for path in (tmp_path / "out").rglob("events.*") if "hparams" not in str(path.parent.name)][:1]
        written = accumulator.EventAccumulator(str(events.parent))
        written.Reload()
        scalars = written.Tags()["scalars"]
        assert {"train/loss", "train/learning_rate", "validation/abs_rel", "validation/delta1"} <= set(scalars)
        rows = written.Scalars("validation/abs_rel")
        assert [row.step for row in rows] == [6, 12]
        assert min(row.value for row in rows) == pytest.approx(result.validation.abs_rel, rel=1e-6)
