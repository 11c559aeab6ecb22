"""The full state of a run in folders `step-00000120/`: JSON and safetensors, each folder whole or absent.
All is synced to the disk before it takes its name, as a power loss asks for, but our tests only kill processes."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from spaceclip_plugin import _checks
from spaceclip_plugin._digest import sha256_of
from spaceclip_plugin._files import atomic_folder, read_json_object, sync_to_disk
from spaceclip_plugin._tensor_files import load_tensors
from spaceclip_plugin.errors import CheckpointError, ConfigError, TrainingError

FORMAT_VERSION = 1
INDEX_NAME = "checkpoint.json"
# Some hundred thousand lines of history; what is larger is refused when it is saved, not when it is needed.
MAX_INDEX_BYTES = 64 << 20

_log = logging.getLogger(__name__)
_STEM = re.compile(r"[a-z0-9_-]{1,64}")
_STEP_NAME = re.compile(r"step-([0-9]{8,})")
_LEFT_OVER = re.compile(r"\.step-[0-9]{8,}\.([0-9a-f]{12}\.tmp|old)")
_SUFFIX = ".safetensors"
_FIELDS = frozenset({"format_version", "step", "state", "files", "sha256"})
# What every supported version of safetensors can hold.
_DTYPES = frozenset(
    {torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64}
    | {torch.float16, torch.bfloat16, torch.float32, torch.float64}
)


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """What a run needs to go on as if it had never stopped."""

    step: int  # optimizer steps done
    state: dict[str, object]  # counters, losses, history; JSON-ready, so lists instead of tuples and string keys
    tensors: dict[str, dict[str, Tensor]]  # file stem → name → tensor

    def __post_init__(self) -> None:
        _checks.whole("step", self.step, 0, 1 << 62)
        for stem, tensors in self.tensors.items():
            if not _STEM.fullmatch(stem):
                raise ConfigError(
                    f"{stem!r} cannot name a file of a checkpoint; give at most 64 of a-z, 0-9, '_' and '-'"
                )
            for name, value in tensors.items():
                _check_tensor(f"{stem}: {name}", name, value)


@dataclass(frozen=True)
class CheckpointFolder:
    """The checkpoints of one run; the first save makes the folder.
    One process saves; the caller gathers what others have, and sees to it that no other run uses the folder."""

    path: Path
    keep: int = 2  # so many of the newest

    def __post_init__(self) -> None:
        _checks.whole("keep", self.keep, 1, 1000)

    def save(self, checkpoint: Checkpoint) -> Path:
        """Write a checkpoint and wait until it is on the disk; only then remove those beyond `keep`.
        One that cannot be removed is a warning, and tried again at the next save. Returns the new folder."""
        target = self.path / f"step-{checkpoint.step:08d}"
        found: dict[int, Path] = {}
        try:
            found = self._found()
            if checkpoint.step <= max(found, default=-1):
                raise ConfigError(
                    f"cannot save step {checkpoint.step}: {str(found[max(found)])!r} is there already; "
                    "save each step once, in rising order"
                )
            files = {stem + _SUFFIX: _packed(tensors) for stem, tensors in checkpoint.tensors.items()}
            files[INDEX_NAME] = _index(checkpoint, files)
            if not self.path.is_dir():
                self.path.mkdir(parents=True)
                sync_to_disk(self.path.parent)
            for entry in self.path.iterdir():
                if _LEFT_OVER.fullmatch(entry.name):  # of a killed process; frees its space
                    _remove(entry)
            with atomic_folder(target) as temporary:
                for name, content in files.items():
                    _write(temporary / name, content)
        except OSError as error:
            where = f" ({Path(error.filename).name})" if error.filename else ""
            kept = f"{str(found[max(found)])!r} is intact" if found else "there was no checkpoint before it"
            raise TrainingError(
                f"cannot save the checkpoint {str(target)!r}: {error.strerror or error}{where}; {kept}. "
                "Free disk space or make the folder writable, then resume the run"
            ) from error
        self._remove_old({**found, checkpoint.step: target})
        return target

    def newest(self) -> Checkpoint | None:
        """The checkpoint of the latest step, verified, its tensors on the CPU and contiguous; None where there is none.
        A damaged one is a CheckpointError: an older one is never taken silently in its place."""
        found = self._listed()
        if not found:
            return None
        *older, step = sorted(found)
        try:
            return _read(found[step], step)
        except (CheckpointError, ConfigError, OSError) as error:
            then = f"continue from {str(found[older[-1]])!r}" if older else "start anew; there is no older checkpoint"
            raise CheckpointError(
                f"cannot resume: {error}. Restore the checkpoint, or remove the folder {str(found[step])!r} to {then}"
            ) from error

    def steps(self) -> list[int]:
        """The steps there seem to be checkpoints of, in rising order; none of them is read."""
        return sorted(self._listed())

    def _listed(self) -> dict[int, Path]:
        try:
            return self._found()
        except OSError as error:
            raise CheckpointError(
                f"cannot look for checkpoints in {str(self.path)!r} ({error.strerror}); check the path"
            ) from error

    def _found(self) -> dict[int, Path]:
        """Whatever has the name of a checkpoint, by step; other names are not ours and ignored."""
        if not os.path.lexists(self.path):
            return {}
        found: dict[int, Path] = {}
        for entry in self.path.iterdir():
            match = _STEP_NAME.fullmatch(entry.name)
            if match and entry.name == f"step-{int(match[1]):08d}":
                found[int(match[1])] = entry
        return found

    def _remove_old(self, found: dict[int, Path]) -> None:
        for step in sorted(found)[: -self.keep]:
            hidden = self.path / f".{found[step].name}.old"
            try:
                # First out of sight: a process killed half-way must not leave a checkpoint with files missing.
                found[step].rename(hidden)
                sync_to_disk(self.path)
            except OSError as error:
                _log.warning("cannot remove the old checkpoint %s: %s", found[step], error)
            else:
                _remove(hidden)


def _check_tensor(where: str, name: object, value: object) -> None:
    if not isinstance(name, str) or not name.isprintable() or name == "__metadata__":  # a word of the file format
        raise ConfigError(f"{where!r} cannot be saved under the name {name!r}; give a printable string")
    if not isinstance(value, Tensor):
        raise ConfigError(f"{where!r} is of type {type(value).__name__}, expected a tensor; put it into the state")
    if value.dtype not in _DTYPES or value.layout != torch.strided or value.is_meta:
        raise ConfigError(
            f"{where!r} is a {value.dtype} tensor of layout {value.layout} on {value.device}, which a checkpoint "
            "cannot hold; expected a dense tensor with data, of booleans, bytes, signed integers or floats"
        )


def _packed(tensors: dict[str, Tensor]) -> bytes:
    """A safetensors file. In memory, not by its own writer, so that a full disk is an OSError with an errno."""
    # Copies: safetensors refuses tensors that share memory, such as tied weights.
    own = {
        name: value.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        for name, value in tensors.items()
    }
    return safetensors.torch.save(own)


def _index(checkpoint: Checkpoint, files: dict[str, bytes]) -> bytes:
    """The content of checkpoint.json."""
    content = {
        "format_version": FORMAT_VERSION,
        "step": checkpoint.step,
        "state": checkpoint.state,
        "files": {name: {"size_bytes": len(data), "sha256": sha256_of(data)} for name, data in files.items()},
    }
    try:
        text = _json(content)
        read_back = json.loads(text)["state"]
        encoded = _json({**content, "sha256": sha256_of(text)}).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigError(
            f"the state of step {checkpoint.step} cannot be written as JSON: {error}; "
            "give finite numbers, strings, lists and objects"
        ) from error
    if read_back != checkpoint.state:
        raise ConfigError(
            f"the state of step {checkpoint.step} would be read back as something else; "
            "give lists instead of tuples, and strings as keys"
        )
    if len(encoded) > MAX_INDEX_BYTES:
        raise ConfigError(
            f"the state of step {checkpoint.step} takes {len(encoded)} bytes as JSON, expected at most "
            f"{MAX_INDEX_BYTES}; keep long records in tensors or in a file of their own"
        )
    return encoded


def _read(folder: Path, step: int) -> Checkpoint:
    if folder.is_symlink() or not folder.is_dir():
        raise CheckpointError(f"{str(folder)!r} is not a folder")
    index = _read_index(folder, step)
    files = index["files"]
    if not isinstance(files, dict) or not isinstance(index["state"], dict):
        raise CheckpointError(f"{str(folder / INDEX_NAME)!r} has no objects 'files' and 'state'")
    held = {entry.name for entry in folder.iterdir()}
    for name in sorted(held - files.keys() - {INDEX_NAME}):
        raise CheckpointError(f"{str(folder / name)!r} is not one of the files it was saved with")
    tensors = {}
    for name, fingerprint in files.items():
        stem = name.removesuffix(_SUFFIX)
        if name != stem + _SUFFIX or not _STEM.fullmatch(stem):
            raise CheckpointError(f"{str(folder / INDEX_NAME)!r} lists {name!r}, which cannot be a file of it")
        tensors[stem] = _read_tensors(folder / name, fingerprint)
    return Checkpoint(step, index["state"], tensors)


def _read_index(folder: Path, step: int) -> dict[str, object]:
    path = folder / INDEX_NAME
    _check_is_file(path)
    index = read_json_object(path, max_bytes=MAX_INDEX_BYTES)
    version = index.get("format_version")
    if version != FORMAT_VERSION:
        raise CheckpointError(
            f"{str(path)!r} is of format version {version!r}, expected {FORMAT_VERSION}; "
            "resume with the version of spaceclip_plugin that wrote it"
        )
    if index.keys() != _FIELDS:
        raise CheckpointError(f"{str(path)!r} holds {sorted(index)}, expected {sorted(_FIELDS)}")
    # Nobody else vouches for the index, so it carries its own digest; that also finds a digit changed by hand.
    if index.pop("sha256") != sha256_of(_json(index)):
        raise CheckpointError(f"{str(path)!r} is not as it was saved: its SHA-256 differs")
    if index["step"] != step:
        raise CheckpointError(f"{str(path)!r} is of step {index['step']}, not of the folder's")
    return index


def _read_tensors(path: Path, fingerprint: object) -> dict[str, Tensor]:
    _check_is_file(path)
    if not isinstance(fingerprint, dict) or fingerprint.keys() != {"size_bytes", "sha256"}:
        raise CheckpointError(f"{INDEX_NAME!r} does not say the size and SHA-256 of {str(path)!r}")
    size_bytes = path.stat().st_size
    if size_bytes != fingerprint["size_bytes"]:
        raise CheckpointError(f"{str(path)!r} has {size_bytes} bytes, expected {fingerprint['size_bytes']}")
    if sha256_of(path.read_bytes()) != fingerprint["sha256"]:
        raise CheckpointError(f"{str(path)!r} is not as it was saved: its SHA-256 differs")
    return load_tensors(path)


def _check_is_file(path: Path) -> None:
    if not os.path.lexists(path):
        raise CheckpointError(f"{str(path)!r} is missing")
    if path.is_symlink() or not path.is_file():
        raise CheckpointError(f"{str(path)!r} is not a plain file")


def _write(path: Path, content: bytes) -> None:
    try:
        with path.open("xb") as file:
            file.write(content)
    except OSError as error:  # that of a full disk does not say which file
        raise OSError(error.errno, error.strerror, str(path)) from error


def _remove(path: Path) -> None:
    try:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    except OSError as error:
        _log.warning("cannot remove %s: %s", path, error)


def _json(content: object) -> str:
    """One text for equal content: floats are written so that they are read back exactly."""
    return json.dumps(content, allow_nan=False, separators=(",", ":"))
