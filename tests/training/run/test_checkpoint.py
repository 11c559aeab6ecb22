"""The full state of a run comes back bit by bit, and a save that fails or is killed costs nothing."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoint_world import STATE, assert_equal, names, small, two_checkpoints

from spaceclip_plugin.errors import ConfigError, TrainingError
from spaceclip_plugin.training.run import checkpoint as checkpoint_module
from spaceclip_plugin.training.run.checkpoint import Checkpoint, CheckpointFolder

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
DTYPES = (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, *FLOATS)
KILLED_WRITER = Path(__file__).with_name("killed_writer.py")


@pytest.fixture
def folder(tmp_path: Path) -> CheckpointFolder:
    return two_checkpoints(tmp_path / "checkpoints")


class TestRoundTrip:
    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    def test_every_dtype_is_kept_bit_for_bit(self, tmp_path: Path, dtype: torch.dtype) -> None:
        raw = torch.arange(256, dtype=torch.uint8).roll(1)
        values = raw.remainder(2).bool() if dtype == torch.bool else raw.view(dtype)
        if dtype in FLOATS:
            values = torch.cat([values, torch.tensor([math.nan, -math.inf, -0.0], dtype=dtype)])
        tensors = {"all": values, "scalar": values[5], "empty": values[:0], "rows": torch.empty(3, 0, dtype=dtype)}
        made = Checkpoint(0, {}, {"of-one_dtype": tensors})
        CheckpointFolder(tmp_path).save(made)
        assert_equal(CheckpointFolder(tmp_path).newest(), made)

    def test_a_run_s_state_is_kept_whole(self, tmp_path: Path) -> None:
        parameter = torch.nn.Parameter(torch.randn(4, 3, 2, 2).to(memory_format=torch.channels_last))
        whole = torch.arange(24.0).view(4, 6)
        made = Checkpoint(
            120,
            STATE,
            {
                "head": {"conv": parameter, "": torch.tensor(1.5)},
                "average": {"tied": whole, "too": whole, "part": whole[1:3, 2:], "turned": whole.t()},
                "optimizer": {"expanded": torch.tensor([7]).expand(5), "step": torch.tensor(120)},
                "rng-0": {"torch": torch.get_rng_state()},
                "best": {},
            },
        )
        assert CheckpointFolder(tmp_path).save(made) == tmp_path / "step-00000120"
        found = CheckpointFolder(tmp_path).newest()
        assert_equal(found, made)
        assert found is not None
        for tensors in found.tensors.values():
            for value in tensors.values():
                assert value.is_contiguous()
                assert not value.requires_grad
        found.tensors["average"]["tied"].zero_()  # no memory in common with another, and none that is read-only
        assert torch.equal(found.tensors["average"]["too"], whole)

    def test_tensors_do_not_change_with_their_file(self, folder: CheckpointFolder) -> None:
        found = folder.newest()
        path = folder.path / "step-00000002" / "head.safetensors"
        with path.open("r+b") as file:
            file.write(b"\xff" * path.stat().st_size)
        assert_equal(found, small(2))

    def test_floats_of_the_state_are_kept_bit_for_bit(self, tmp_path: Path) -> None:
        numbers = [0.1 + 0.2, -0.0, 5e-324, math.pi, 1 / 3, 2**53 + 1, 10**30, math.nextafter(1, 2)]
        CheckpointFolder(tmp_path).save(Checkpoint(1, {"numbers": numbers}, {}))
        found = CheckpointFolder(tmp_path).newest()
        assert found is not None
        assert repr(found.state["numbers"]) == repr(numbers)

    def test_the_history_of_a_long_run_fits(self, tmp_path: Path) -> None:
        history = [{"epoch": epoch, "loss": 1 / (epoch + 1), "abs_rel": 0.1} for epoch in range(30_000)]
        CheckpointFolder(tmp_path).save(Checkpoint(1, {"history": history}, {}))
        assert (tmp_path / "step-00000001" / "checkpoint.json").stat().st_size > 1 << 20
        found = CheckpointFolder(tmp_path).newest()
        assert found is not None
        assert found.state["history"] == history

    def test_no_folder_and_an_empty_one_have_no_checkpoint(self, tmp_path: Path) -> None:
        assert CheckpointFolder(tmp_path / "absent").newest() is None
        assert CheckpointFolder(tmp_path).newest() is None
        assert names(tmp_path) == []


class TestSaving:
    @pytest.mark.parametrize(("keep", "kept"), [(1, [5]), (2, [4, 5]), (3, [3, 4, 5]), (9, [1, 2, 3, 4, 5])])
    def test_the_newest_are_kept(self, tmp_path: Path, keep: int, kept: list[int]) -> None:
        for step in range(1, 6):
            CheckpointFolder(tmp_path / "a" / "b", keep=keep).save(small(step))
        assert names(tmp_path / "a" / "b") == [f"step-{step:08d}" for step in kept]
        assert_equal(CheckpointFolder(tmp_path / "a" / "b").newest(), small(5))

    def test_newest_is_by_number_not_by_letters(self, tmp_path: Path) -> None:
        for step in (99_999_998, 99_999_999, 100_000_000):
            CheckpointFolder(tmp_path).save(small(step))
        assert names(tmp_path) == ["step-100000000", "step-99999999"]
        assert_equal(CheckpointFolder(tmp_path).newest(), small(100_000_000))

    @pytest.mark.parametrize("step", [0, 1, 2])
    def test_a_step_that_is_not_later_is_refused(self, folder: CheckpointFolder, step: int) -> None:
        with pytest.raises(ConfigError, match=rf"save step {step}: .*step-00000002' is there already"):
            folder.save(small(step))
        assert names(folder.path) == ["step-00000001", "step-00000002"]
        assert_equal(folder.newest(), small(2))

    def test_what_killed_writers_left_is_removed(self, folder: CheckpointFolder) -> None:
        for name in (".step-00000003.0123456789ab.tmp", ".step-00000000.old", ".step-notes", ".step-00000003.tmp"):
            (folder.path / name).mkdir()
            (folder.path / name / "head.safetensors").write_bytes(b"half")
        assert_equal(folder.newest(), small(2))
        folder.save(small(3))
        assert names(folder.path) == [".step-00000003.tmp", ".step-notes", "step-00000002", "step-00000003"]

    @pytest.mark.parametrize("action", ["rename", "rmtree"])
    def test_an_old_one_that_stays_is_a_warning(
        self,
        folder: CheckpointFolder,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
        action: str,
    ) -> None:
        owner: Any = Path if action == "rename" else shutil
        original: Callable[..., object] = getattr(owner, action)

        def refusing(path: Path, *args: Any, **options: Any) -> object:
            if "step-00000001" in path.name:
                raise PermissionError(13, "Permission denied")
            return original(path, *args, **options)

        with monkeypatch.context() as patch:
            patch.setattr(owner, action, refusing)
            folder.save(small(3))
        assert re.search(r"cannot remove .*step-00000001.*Permission denied", caplog.text)
        left = {"rename": "step-00000001", "rmtree": ".step-00000001.old"}[action]
        assert names(folder.path) == sorted([left, "step-00000002", "step-00000003"])
        folder.save(small(4))
        assert names(folder.path) == ["step-00000003", "step-00000004"]

    @pytest.mark.skipif(os.name != "posix", reason="folders are synced on POSIX alone")
    def test_all_is_on_the_disk_before_it_has_its_name_and_before_an_old_one_goes(
        self, folder: CheckpointFolder, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        events: list[object] = []
        rename, fsync = Path.rename, os.fsync

        def renaming(path: Path, target: Path) -> Path:
            events.append(target.name)
            return rename(path, target)

        def syncing(handle: int) -> None:
            events.append(os.fstat(handle).st_ino)
            fsync(handle)

        monkeypatch.setattr(Path, "rename", renaming)
        monkeypatch.setattr(os, "fsync", syncing)
        made = folder.save(small(3))
        inodes = {entry.stat().st_ino: entry.name for entry in (*made.iterdir(), made, folder.path)}
        said = [inodes.get(event, event) if isinstance(event, int) else f"→ {event}" for event in events]
        assert sorted(said[:3], key=str) == ["checkpoint.json", "head.safetensors", "rng-0.safetensors"]
        assert said[3:] == ["step-00000003", "→ step-00000003", "checkpoints", "→ .step-00000001.old", "checkpoints"]

    @pytest.mark.skipif(os.name != "posix", reason="folders are synced on POSIX alone")
    def test_a_new_folder_is_on_the_disk_too(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        synced: list[int] = []
        monkeypatch.setattr(os, "fsync", lambda handle: synced.append(os.fstat(handle).st_ino))
        CheckpointFolder(tmp_path / "checkpoints").save(small(1))
        assert synced[0] == tmp_path.stat().st_ino


class TestRefusals:
    @pytest.mark.parametrize("step", [-1, True, 1.0, "1", None])
    def test_steps(self, step: Any) -> None:
        with pytest.raises(ConfigError, match="step must be an integer from 0"):
            Checkpoint(step, {}, {})

    @pytest.mark.parametrize("keep", [0, -1, True, 2.0, 1001])
    def test_keep(self, tmp_path: Path, keep: Any) -> None:
        with pytest.raises(ConfigError, match="keep must be an integer from 1 to 1000"):
            CheckpointFolder(tmp_path, keep=keep)

    @pytest.mark.parametrize("stem", ["", "Head", "../head", "a/b", "a.b", "a b", "ü", "head\n", "a" * 65])
    def test_file_stems(self, stem: str) -> None:
        with pytest.raises(ConfigError, match="cannot name a file of a checkpoint"):
            Checkpoint(1, {}, {stem: {}})

    @pytest.mark.parametrize("name", ["__metadata__", "a\nb", "\ud800", 3])
    def test_tensor_names(self, name: Any) -> None:
        with pytest.raises(ConfigError, match="cannot be saved under the name"):
            Checkpoint(1, {}, {"head": {name: torch.zeros(1)}})

    @pytest.mark.parametrize(
        ("value", "complaint"),
        [
            (3.0, "'optimizer: step' is of type float, expected a tensor"),
            (torch.zeros(2, device="meta"), "on meta"),
            (torch.zeros(2).to_sparse(), "torch.sparse_coo"),
            (torch.zeros(2, dtype=torch.complex64), "torch.complex64"),
        ],
        ids=["float", "meta", "sparse", "complex"],
    )
    def test_values_that_are_no_dense_tensor(self, value: Any, complaint: str) -> None:
        with pytest.raises(ConfigError, match=complaint):
            Checkpoint(1, {}, {"optimizer": {"step": value}})

    @pytest.mark.parametrize(
        ("value", "complaint"),
        [
            (math.nan, "not JSON compliant"),
            (-math.inf, "not JSON compliant"),
            (torch.zeros(1), "Tensor is not JSON serializable"),
            ({1, 2}, "set is not JSON serializable"),
            ((1, 2), "lists instead of tuples"),
            ({1: "epoch"}, "strings as keys"),
            ({None: 1}, "strings as keys"),
        ],
        ids=repr,
    )
    def test_a_state_that_json_would_change_writes_nothing(self, tmp_path: Path, value: Any, complaint: str) -> None:
        with pytest.raises(ConfigError, match=complaint):
            CheckpointFolder(tmp_path / "new").save(Checkpoint(1, {"deep": [{"value": value}]}, {}))
        assert names(tmp_path) == []

    def test_a_state_too_large_to_be_read_is_not_written(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        CheckpointFolder(tmp_path).save(small(1))
        size = (tmp_path / "step-00000001" / "checkpoint.json").stat().st_size
        monkeypatch.setattr(checkpoint_module, "MAX_INDEX_BYTES", size)
        CheckpointFolder(tmp_path).save(small(2))
        assert_equal(CheckpointFolder(tmp_path).newest(), small(2))
        monkeypatch.setattr(checkpoint_module, "MAX_INDEX_BYTES", size - 1)
        with pytest.raises(ConfigError, match=f"takes {size} bytes as JSON, expected at most {size - 1}"):
            CheckpointFolder(tmp_path).save(small(3))
        assert names(tmp_path) == ["step-00000001", "step-00000002"]


LIMITED = """
import json, resource, signal, sys
from pathlib import Path
import torch
from spaceclip_plugin.errors import TrainingError
from spaceclip_plugin.training.run.checkpoint import Checkpoint, CheckpointFolder

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
folder = CheckpointFolder(Path(sys.argv[1]))
state = {"losses": [0.5] * 20_000}
tensors = {"head": {"a": torch.ones(2000)}, "optimizer": {"a": torch.ones(10_000)}}
folder.save(Checkpoint(1, state, tensors))
_, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
said = []
for limit in (0, 100, 20_000, 60_000, resource.RLIM_INFINITY):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        folder.save(Checkpoint(2, state, tensors))
    except TrainingError as error:
        said.append(str(error))
    else:
        said.append("saved")
    said.append(sorted(entry.name for entry in folder.path.iterdir()))
    said.append(folder.newest().step)
sys.stdout.write(json.dumps(said))
"""


def run(*command: str) -> Any:
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }
    done = subprocess.run([sys.executable, *command], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


class TestFullDisk:
    @pytest.mark.slow
    @pytest.mark.skipif(os.name != "posix", reason="a limit on the size of files is POSIX's")
    def test_files_that_the_system_refuses(self, tmp_path: Path) -> None:
        said = run("-c", LIMITED, str(tmp_path / "checkpoints"))
        for message, file in zip(
            said[0:12:3],
            ("head.safetensors", "head.safetensors", "optimizer.safetensors", "checkpoint.json"),
            strict=True,
        ):
            assert "step-00000002': File too large" in message
            assert f"({file})" in message
            assert "step-00000001' is intact" in message
        assert said[1:12:3] == [["step-00000001"]] * 4
        assert said[2:12:3] == [1] * 4
        assert said[12:] == ["saved", ["step-00000001", "step-00000002"], 2]

    @pytest.mark.skipif(os.name != "posix", reason="folders are synced on POSIX alone")
    @pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()], ids=["full", "^C"])
    @pytest.mark.parametrize("synced", range(4))
    def test_a_save_that_stops_anywhere_leaves_nothing(
        self, folder: CheckpointFolder, monkeypatch: pytest.MonkeyPatch, synced: int, error: BaseException
    ) -> None:
        calls = 0

        def filling(_: int) -> None:
            nonlocal calls
            calls += 1
            if calls > synced:
                raise error

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", filling)
            full = isinstance(error, OSError)
            with pytest.raises(TrainingError if full else KeyboardInterrupt) as caught:
                folder.save(small(3))
        assert names(folder.path) == ["step-00000001", "step-00000002"]
        assert_equal(folder.newest(), small(2))
        if full:
            assert "No space left on device" in str(caught.value)
            assert "step-00000002' is intact" in str(caught.value)
        folder.save(small(3))
        assert_equal(folder.newest(), small(3))

    @pytest.mark.skipif(os.name != "posix", reason="folders are synced on POSIX alone")
    def test_a_rename_that_may_not_be_on_the_disk_is_an_error(
        self, folder: CheckpointFolder, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        parent = folder.path.stat().st_ino

        def failing(handle: int) -> None:
            if os.fstat(handle).st_ino == parent:
                raise OSError(5, "Input/output error")

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", failing)
            with pytest.raises(TrainingError, match=r"step-00000002' is intact"):
                folder.save(small(3))
        assert names(folder.path) == ["step-00000001", "step-00000002", "step-00000003"]
        assert_equal(folder.newest(), small(3))

    def test_the_first_save_has_nothing_to_fall_back_on(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def refusing(path: Path, content: bytes) -> None:
            raise OSError(28, "No space left on device", str(path))

        monkeypatch.setattr(checkpoint_module, "_write", refusing)
        with pytest.raises(TrainingError, match=r"device \(head.safetensors\); there was no checkpoint before it"):
            CheckpointFolder(tmp_path / "new").save(small(1))
        assert names(tmp_path / "new") == []


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_a_writer_killed_at_any_moment_leaves_the_newest_whole() -> None:
    found = run(str(KILLED_WRITER), "--kills", "40")
    assert found["kills"] == 40
    assert found["unreadable"] == 0
    # Proof that the kills came in the midst of it.
    assert found["temporaries_left"] > 0
