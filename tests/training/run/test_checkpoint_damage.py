"""A damaged, incomplete or forged checkpoint is an error that names the file; never an older one in its place."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from checkpoint_world import assert_equal, names, small, two_checkpoints

from spaceclip_plugin.errors import CheckpointError, TrainingError
from spaceclip_plugin.training.run.checkpoint import CheckpointFolder


@pytest.fixture
def folder(tmp_path: Path) -> CheckpointFolder:
    return two_checkpoints(tmp_path / "checkpoints")


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
