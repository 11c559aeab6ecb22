"""A launcher that was asked for several processes and started one is found out; the others are let be."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from scripts import script_environment

from spaceclip_plugin.cli import main
from spaceclip_plugin.errors import ConfigError
from spaceclip_plugin.training.processes import Processes, check_launched

ALONE = {"ACCELERATE_USE_CPU": "True", "ACCELERATE_MIXED_PRECISION": "no"}
MEETING = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
TRAIN = ["train", "--host", "python:small_world:tiny_host", "--data", "scenes:3", "--val", "scenes:1:1"]
SIZES = ("WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE")


def setting(patch: pytest.MonkeyPatch, environment: dict[str, str]) -> None:
    for name in (*ALONE, *MEETING, *SIZES):
        patch.delenv(name, raising=False)
    for name, value in environment.items():
        patch.setenv(name, value)


@pytest.mark.parametrize("on_cpu", ["True", "False"])  # without a GPU the same happens without --cpu
def test_one_process_instead_of_several_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], on_cpu: str
) -> None:
    setting(monkeypatch, {**ALONE, **MEETING, "ACCELERATE_USE_CPU": on_cpu})
    with pytest.raises(ConfigError, match="asked for several processes and started one"):
        Processes(torch.device("cpu"))
    assert main([*TRAIN, "--out", str(tmp_path / "run")]) == 1
    assert "torchrun --nproc_per_node N -m spaceclip_plugin.cli train" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "environment",
    [
        {},
        ALONE,  # accelerate launch --num_processes 1
        MEETING,  # somebody else's
        {**MEETING, "WORLD_SIZE": "2"},  # torchrun
        {**ALONE, **MEETING, "WORLD_SIZE": "1"},
        {**ALONE, **MEETING, "OMPI_COMM_WORLD_SIZE": "2"},  # accelerate launch with MPI
    ],
)
def test_other_launchers_are_let_be(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]) -> None:
    setting(monkeypatch, environment)
    check_launched()


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="with GPUs accelerate starts as many processes as it is told")
def test_accelerate_does_not_train_alone_in_silence(tmp_path: Path) -> None:
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2"]
    command = [*launch, "-m", "spaceclip_plugin.cli", *TRAIN, "--out", str(tmp_path / "run")]
    done = subprocess.run(command, env=script_environment(), capture_output=True, text=True)
    assert done.returncode != 0
    assert done.stdout == ""
    assert "asked for several processes and started one" in done.stderr
    assert not (tmp_path / "run").exists()
