"""The folder of a run whose checkpoints are gone, that another process uses, or whose disk is full."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from stopped_runs import fit, fit_until

from spaceclip_plugin.errors import CheckpointError, TrainingError
from spaceclip_plugin.head import folder as head_folder
from spaceclip_plugin.training.run.folder import RunFolder

# Holds the folder as a run in another process does, until its standard input ends.
HOLD = """
import json, sys
from pathlib import Path
from spaceclip_plugin.training.run.folder import RunFolder
run = Path(sys.argv[1])
folder = RunFolder(run)
folder.open(json.loads((run / "run.json").read_text()), resume=True, config_yaml=None)
sys.stdout.write("held\\n")
sys.stdout.flush()
sys.stdin.read()
"""


@contextmanager
def held(run: Path) -> Iterator[None]:
    command = [sys.executable, "-c", HOLD, str(run)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdin is not None
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        try:
            yield
        finally:
            other.stdin.close()


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


class TestCheckpointsThatAreGone:
    @pytest.mark.parametrize("lost", ["checkpoints", "its content"])
    @pytest.mark.parametrize("also", [None, "best", "metrics.jsonl"])
    def test_a_run_with_a_finished_epoch_does_not_begin_anew(
        self, tmp_path: Path, lost: str, also: str | None
    ) -> None:  # fmt: skip
        out = tmp_path / "run"
        fit_until(9, out)  # in the second epoch
        shutil.rmtree(out / "checkpoints")
        if lost == "its content":
            (out / "checkpoints").mkdir()
        if also == "best":
            shutil.rmtree(out / "best")
        elif also is not None:
            (out / also).unlink()
        told = {None: "best and metrics.jsonl", "best": "metrics.jsonl", "metrics.jsonl": "best"}[also]
        before = contents(out)
        with pytest.raises(
            CheckpointError, match=f": {told} tell of a finished epoch, but .*start a new run"
        ) as caught:
            fit(out, resume=True)
        assert repr(str(out / "checkpoints")) in str(caught.value)
        assert contents(out) == before

    @pytest.mark.slow
    def test_a_refused_run_can_be_opened_by_others(self, tmp_path: Path) -> None:
        out = tmp_path / "run"
        fit_until(9, out)
        shutil.move(out / "checkpoints", tmp_path / "elsewhere")
        with pytest.raises(CheckpointError, match="holds no checkpoint"):
            fit(out, resume=True)
        shutil.move(tmp_path / "elsewhere", out / "checkpoints")
        fit(out, resume=True)

    def test_a_run_that_was_stopped_while_it_cached_begins(self, tmp_path: Path) -> None:
        out = tmp_path / "run"
        fit_until(1, out)
        shutil.rmtree(out / "checkpoints")
        (out / "metrics.jsonl").unlink()
        fit(out, resume=True)
        assert json.loads((out / "run.json").read_text())["continued_at_step"] == 0


class TestAFolderInUse:
    @pytest.mark.slow
    @pytest.mark.parametrize("resume", [False, True])
    def test_nobody_is_told_to_remove_it(self, tmp_path: Path, resume: bool) -> None:
        out = tmp_path / "run"
        fit_until(2, out)
        with held(out):
            before = contents(out)
            with pytest.raises(TrainingError, match="another process is training in") as caught:
                fit(out, resume=resume)
            assert str(caught.value).endswith("; wait for it, or choose another folder")
            assert contents(out) == before
        with pytest.raises(TrainingError, match="already holds a run; continue it with --resume"):
            fit(out)
        fit(out, resume=True)

    def test_a_lock_that_is_not_a_runs_is_left_alone(self, tmp_path: Path) -> None:
        (tmp_path / ".lock").write_text("mine")
        (tmp_path / "notes").write_text("mine too")
        with pytest.raises(TrainingError, match=r"is not empty \(it holds 'notes'\)"):
            fit(tmp_path)
        assert contents(tmp_path) == {".lock": b"mine", "notes": b"mine too"}

    def test_a_finished_run_gets_no_lock(self, tmp_path: Path) -> None:
        fit(tmp_path / "run")
        before = contents(tmp_path / "run")
        with pytest.raises(TrainingError, match="already holds a run"):
            fit(tmp_path / "run")
        assert contents(tmp_path / "run") == before

    def test_a_folder_that_cannot_be_claimed_is_free_again(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:  # fmt: skip
        folder = RunFolder(tmp_path / "run")
        with monkeypatch.context() as patch:
            patch.setattr("spaceclip_plugin.training.run.folder.write_json", lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                folder.open({}, resume=False, config_yaml=None)
        other = RunFolder(tmp_path / "run")
        other.open({}, resume=False, config_yaml=None)
        other.close()


@pytest.mark.slow
def test_a_disk_that_is_full_when_the_best_head_is_saved_is_told_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, *_: object) -> None:
        raise OSError(28, "No space left on device", str(path))

    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(head_folder, "write_weights", full)
        with pytest.raises(TrainingError, match=r"No space left on device.*\. Free disk space .* then resume the run"):
            fit(out)
    fit(tmp_path / "whole")
    fit(out, resume=True)
    heads = [run / "head" / "model.safetensors" for run in (out, tmp_path / "whole")]
    assert heads[0].read_bytes() == heads[1].read_bytes()
