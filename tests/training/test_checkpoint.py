from __future__ import annotations

import hashlib
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
import safetensors.torch
import torch
from torch import Tensor

from spaceclip_plugin.errors import CheckpointError, ConfigError, TrainingError
from spaceclip_plugin.training import checkpoint as checkpoint_module
from spaceclip_plugin.training.checkpoint import Checkpoint, CheckpointFolder

STATE = {"epoch": 3, "losses": [0.1, 1e-300, -0.0, 2.5e17], "best": None, "name": "Tiefe 深度", "done": False}
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
DTYPES = (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, *FLOATS)
KILLED_WRITER = Path(__file__).with_name("killed_writer.py")


def small(step: int) -> Checkpoint:
    head = {"weight": torch.full((2, 3), float(step)), "bias": torch.arange(3.0)}
    return Checkpoint(step, {**STATE, "step": step}, {"head": head, "rng-0": {"torch": torch.tensor([step, 255])}})


def bits(value: Tensor) -> bytes:
    return value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def assert_equal(found: Checkpoint | None, expected: Checkpoint) -> None:
    assert found is not None
    assert found.step == expected.step
    assert repr(found.state) == repr(expected.state)
    assert found.tensors.keys() == expected.tensors.keys()
    for stem, tensors in expected.tensors.items():
        assert found.tensors[stem].keys() == tensors.keys()
        for name, value in tensors.items():
            again = found.tensors[stem][name]
            assert (again.dtype, again.shape) == (value.dtype, value.shape)
            assert bits(again) == bits(value), name


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


@pytest.fixture
def folder(tmp_path: Path) -> CheckpointFolder:
    """Two checkpoints, of steps 1 and 2."""
    made = CheckpointFolder(tmp_path / "checkpoints")
    made.save(small(1))
    made.save(small(2))
    return made


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
        with pytest.raises(ConfigError, match="step of a checkpoint must be an integer of 0 or more"):
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


def damage_is_named(folder: CheckpointFolder, file: str) -> str:
    """Check that the newest of `folder` is refused with all that a user needs; returns the message."""
    with pytest.raises(CheckpointError) as caught:
        folder.newest()
    message, newest = str(caught.value), folder.path / "step-00000002"
    assert str(newest / file) in message
    assert f"remove the folder {str(newest)!r} to continue from {str(folder.path / 'step-00000001')!r}" in message
    return message


def same_json(one: bytes, other: bytes) -> bool:
    """Whether two texts say the same, as 1e-300 and 1E-300 do."""
    try:
        return repr(json.loads(one)) == repr(json.loads(other))
    except ValueError:
        return False


FILES = ("checkpoint.json", "head.safetensors", "rng-0.safetensors")


class TestDamage:
    @pytest.mark.parametrize("file", FILES)
    def test_a_missing_file(self, folder: CheckpointFolder, file: str) -> None:
        (folder.path / "step-00000002" / file).unlink()
        assert "is missing" in damage_is_named(folder, file)

    @pytest.mark.parametrize("file", FILES)
    def test_a_file_cut_short_or_longer(self, folder: CheckpointFolder, file: str) -> None:
        path = folder.path / "step-00000002" / file
        whole = path.read_bytes()
        for length in (0, 1, 7, 8, len(whole) // 2, len(whole) - 1):
            path.write_bytes(whole[:length])
            message = damage_is_named(folder, file)
            assert file == "checkpoint.json" or f"has {length} bytes, expected {len(whole)}" in message
        path.write_bytes(whole + b"}")
        damage_is_named(folder, file)
        path.write_bytes(whole)
        assert_equal(folder.newest(), small(2))

    @pytest.mark.parametrize("file", FILES)
    def test_a_flipped_bit_in_every_byte(self, folder: CheckpointFolder, file: str) -> None:
        path = folder.path / "step-00000002" / file
        whole = path.read_bytes()
        for position in range(len(whole)):
            for bit in {0, position % 8}:  # the lowest one turns a digit into another
                flipped = bytearray(whole)
                flipped[position] ^= 1 << bit
                path.write_bytes(flipped)
                if file == "checkpoint.json" and same_json(flipped, whole):
                    assert_equal(folder.newest(), small(2))
                else:
                    damage_is_named(folder, file)

    def test_a_digit_changed_by_hand(self, folder: CheckpointFolder) -> None:
        path = folder.path / "step-00000002" / "checkpoint.json"
        path.write_text(path.read_text().replace('"epoch":3', '"epoch":4'))
        assert "SHA-256 differs" in damage_is_named(folder, "checkpoint.json")

    @pytest.mark.parametrize("file", FILES)
    def test_a_file_of_another_checkpoint(self, folder: CheckpointFolder, file: str) -> None:
        other, path = (folder.path / f"step-0000000{step}" / file for step in (1, 2))
        assert other.stat().st_size == path.stat().st_size
        path.write_bytes(other.read_bytes())
        message = damage_is_named(folder, file)
        assert ("is of step 1, not of the folder's" if file == "checkpoint.json" else "SHA-256 differs") in message

    def test_a_renamed_checkpoint(self, folder: CheckpointFolder) -> None:
        (folder.path / "step-00000001").rename(folder.path / "step-00000009")
        with pytest.raises(CheckpointError, match=r"checkpoint.json' is of step 1, not of the folder's"):
            folder.newest()

    @pytest.mark.parametrize("file", ["more.safetensors", ".DS_Store"])
    def test_a_file_too_many(self, folder: CheckpointFolder, file: str) -> None:
        (folder.path / "step-00000002" / file).write_bytes(b"")
        assert "is not one of the files" in damage_is_named(folder, file)

    @pytest.mark.parametrize("file", FILES)
    def test_a_link_or_folder_in_place_of_a_file(self, folder: CheckpointFolder, file: str) -> None:
        path = folder.path / "step-00000002" / file
        path.rename(folder.path / "elsewhere")
        path.symlink_to(folder.path / "elsewhere")
        assert "is not a plain file" in damage_is_named(folder, file)
        path.unlink()
        path.mkdir()
        assert "is not a plain file" in damage_is_named(folder, file)

    def test_an_empty_folder(self, folder: CheckpointFolder) -> None:
        shutil.rmtree(folder.path / "step-00000002")
        (folder.path / "step-00000002").mkdir()
        assert "is missing" in damage_is_named(folder, "checkpoint.json")

    def test_a_file_or_link_in_place_of_the_folder(self, folder: CheckpointFolder) -> None:
        target = folder.path / "step-00000002"
        target.rename(folder.path / "elsewhere")
        target.symlink_to(folder.path / "elsewhere")
        assert "is not a folder" in damage_is_named(folder, "")
        target.unlink()
        target.write_bytes(b"")
        assert "is not a folder" in damage_is_named(folder, "")

    def test_removing_it_as_told_goes_on_with_the_older(self, folder: CheckpointFolder) -> None:
        (folder.path / "step-00000002" / "head.safetensors").unlink()
        damage_is_named(folder, "head.safetensors")
        shutil.rmtree(folder.path / "step-00000002")
        assert_equal(folder.newest(), small(1))
        (folder.path / "step-00000001" / "head.safetensors").unlink()
        with pytest.raises(CheckpointError, match=r"step-00000001' to start anew; there is no older checkpoint"):
            folder.newest()

    def test_names_that_are_not_ours_are_left_alone(self, tmp_path: Path) -> None:
        others = ["step-abc", "step-7", "step-000000012", "step-00000012.bak", "step-٠٠٠٠٠٠٠٩", "notes.txt", "-1"]
        for name in others[1:]:
            (tmp_path / name).mkdir()
        (tmp_path / others[0]).write_bytes(b"")
        folder = CheckpointFolder(tmp_path, keep=1)
        assert folder.newest() is None
        for step in (3, 4):
            folder.save(small(step))
        assert_equal(folder.newest(), small(4))
        assert names(tmp_path) == sorted([*others, "step-00000004"])

    @pytest.mark.parametrize("name", ["head.safetensors", "checkpoint.json"])
    def test_a_disk_that_does_not_read(
        self, folder: CheckpointFolder, monkeypatch: pytest.MonkeyPatch, name: str
    ) -> None:
        opening = Path.open

        def refusing(path: Path, *args: Any, **options: Any) -> Any:
            if path.name == name:
                raise OSError(5, "Input/output error", str(path))
            return opening(path, *args, **options)

        monkeypatch.setattr(Path, "open", refusing)
        assert "Input/output error" in damage_is_named(folder, name)

    def test_a_path_that_is_a_file(self, tmp_path: Path) -> None:
        (tmp_path / "taken").write_bytes(b"mine")
        with pytest.raises(CheckpointError, match=r"cannot look for checkpoints in .*taken"):
            CheckpointFolder(tmp_path / "taken").newest()
        with pytest.raises(TrainingError, match=r"cannot save the checkpoint .*Not a directory"):
            CheckpointFolder(tmp_path / "taken").save(small(1))
        assert (tmp_path / "taken").read_bytes() == b"mine"


Change = Callable[[dict[str, Any]], object]


def forge(folder: Path, change: Change) -> None:
    """Rewrite the index of a checkpoint with a digest that fits."""
    path = folder / "checkpoint.json"
    index = json.loads(path.read_text())
    index.pop("sha256")
    change(index)
    index["sha256"] = hashlib.sha256(json.dumps(index, separators=(",", ":")).encode()).hexdigest()
    path.write_text(json.dumps(index, separators=(",", ":")))


def put(folder: Path, content: bytes) -> None:
    """Replace the head's file, and say so in the index."""
    (folder / "head.safetensors").write_bytes(content)
    entry = {"size_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    forge(folder, lambda index: index["files"].update({"head.safetensors": entry}))


class TestForgery:
    """Indexes that are as their digest says, and still wrong: those of another version, or of another writer."""

    def test_the_forger_is_good(self, folder: CheckpointFolder) -> None:
        forge(folder.path / "step-00000002", lambda index: index["state"].update(epoch=4))
        found = folder.newest()
        assert found is not None
        assert found.state["epoch"] == 4

    @pytest.mark.parametrize(
        ("change", "complaint"),
        [
            (lambda index: index.update(format_version=2), "is of format version 2, expected 1"),
            (lambda index: index.update(format_version="1"), "is of format version '1', expected 1"),
            (lambda index: index.pop("format_version"), "is of format version None"),
            (lambda index: index.pop("state"), "expected .*'state'"),
            (lambda index: index.update(more=1), "holds .*'more'"),
            (lambda index: index.update(step=3), "is of step 3"),
            (lambda index: index.update(state=[]), "no objects 'files' and 'state'"),
            (lambda index: index.update(files=[]), "no objects 'files' and 'state'"),
            (lambda index: index["files"].update({"../head.safetensors": {}}), "cannot be a file of it"),
            (lambda index: index["files"].update({"head": {}}), "cannot be a file of it"),
            (lambda index: index["files"].update({"rng-1.safetensors": {}}), "rng-1.safetensors' is missing"),
            (lambda index: index["files"].pop("rng-0.safetensors"), "is not one of the files"),
            (lambda index: index["files"].update({"head.safetensors": 7}), "does not say the size"),
            (lambda index: index["files"].update({"head.safetensors": {"size_bytes": 9}}), "does not say the size"),
        ],
    )
    def test_indexes(self, folder: CheckpointFolder, change: Change, complaint: str) -> None:
        forge(folder.path / "step-00000002", change)
        with pytest.raises(CheckpointError, match=complaint) as caught:
            folder.newest()
        assert "to continue from" in str(caught.value)

    @pytest.mark.parametrize(
        "content",
        [
            b"",
            b"\x02\0\0\0\0\0\0\0{}more",
            b"\xff" * 8,
            b"\x08\0\0\0\0\0\0\0not json",
            safetensors.torch.save({"a": torch.zeros(9)})[:-1],
            safetensors.torch.save({"a": torch.zeros(2).to(torch.float8_e5m2)}),
            safetensors.torch.save({"a\nb": torch.zeros(2)}),
        ],
        ids=range(7),
    )
    def test_tensors(self, folder: CheckpointFolder, content: bytes) -> None:
        put(folder.path / "step-00000002", content)
        with pytest.raises(CheckpointError, match="to continue from"):
            folder.newest()


LIMITED = """
import json, resource, signal, sys
from pathlib import Path
import torch
from spaceclip_plugin.errors import TrainingError
from spaceclip_plugin.training.checkpoint import Checkpoint, CheckpointFolder

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
