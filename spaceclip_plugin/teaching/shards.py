"""One file of what a teacher said of some photos: float32 as it was given, nothing scaled and nothing left out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from torch import Tensor

from spaceclip_plugin._files import atomic_path
from spaceclip_plugin._tensor_files import NotedTensors, foreign_errors, mapped_tensors
from spaceclip_plugin.errors import CheckpointError, TrainingError

_SHARDS = NotedTensors(
    entry="spaceclip_taught",
    keys=("key", "start", "names", "clips", "fingerprints", "sha256"),
    signed=lambda note, tensors: f"{tensors}{json.dumps(dict(note), sort_keys=True)}",
    max_header_bytes=100_000_000,
)
_PARTS = ("depth", "doubt", "known_at", "known_m")


@dataclass(frozen=True, eq=False)
class TaughtPhoto:
    """What is kept of one photo."""

    name: str
    clip: str
    fingerprint: str  # of the sample that it is of
    depth: npt.NDArray[np.float32]  # (H, W), see `Lesson`
    doubt: npt.NDArray[np.float16]
    known_at: npt.NDArray[np.int32]  # (n,) pixels of (H, W), row by row, whose depth was measured
    known_m: npt.NDArray[np.float32]  # (n,) metres that were measured there

    @property
    def nbytes(self) -> int:
        """Bytes on the disk."""
        return sum(int(getattr(self, name).nbytes) for name in _PARTS)


def write_shard(path: Path, photos: Sequence[TaughtPhoto], *, key: str, start: int) -> str:
    """Write photos, the first of which is number `start` of the source, as one file; returns its SHA-256."""
    tensors: dict[str, Tensor] = {
        f"{part}.{row:05}": torch.from_numpy(np.ascontiguousarray(getattr(photo, part)))
        for row, photo in enumerate(photos)
        for part in _PARTS
    }
    note = {
        "key": key,
        "start": start,
        "names": [photo.name for photo in photos],
        "clips": [photo.clip for photo in photos],
        "fingerprints": [photo.fingerprint for photo in photos],
    }
    try:
        with atomic_path(path) as temporary:
            return _SHARDS.write(temporary, tensors, note)
    except (OSError, SafetensorError) as error:
        raise TrainingError(
            f"cannot write the teacher's depth {str(path)!r}: {error}; free disk space or choose another folder. What "
            "is written stays, and is not made again when the same command is given again"
        ) from error


class TaughtShard:
    """A file that `write_shard` wrote, for reading; its `sha256` is what was written down when it was made."""

    def __init__(self, path: Path, *, key: str) -> None:
        self.path = path
        try:
            header = _SHARDS.read_header(path)
            self.sha256, self._note = header.sha256, header.note
            self.start = int(self._note["start"])
            self.names, self.clips, self.fingerprints = (
                tuple(str(one) for one in self._note[name]) for name in ("names", "clips", "fingerprints")
            )
            found = str(self._note["key"])
            wanted = {f"{part}.{row:05}" for part in _PARTS for row in range(len(self.names))}
            if wanted != set(header.kinds) or not len(self.names) == len(self.clips) == len(self.fingerprints):
                raise ValueError("its photos are not whole")
            with foreign_errors(path):
                self._file = mapped_tensors(path)
        except (CheckpointError, KeyError, ValueError, TypeError) as error:
            raise TrainingError(_damaged(path, f"it cannot be read ({error})")) from error
        if found != key:
            raise TrainingError(
                f"{str(path)!r} holds depth of another teacher, other photos or another way of asking (key "
                f"{found[:12]}…, wanted {key[:12]}…); choose another folder, or remove this one"
            )

    def __len__(self) -> int:
        return len(self.names)

    def check_place(self, photos: range) -> None:
        """Check that the file holds these photos of the source."""
        if (self.start, len(self)) != (photos.start, len(photos)):
            raise TrainingError(
                f"{str(self.path)!r} holds photos {self.start} to {self.start + len(self) - 1}, expected "
                f"{photos.start} to {photos.stop - 1}: files were renamed or left out. Remove the folder and teach anew"
            )

    def verify(self) -> None:
        """Read everything and compare with the digest."""
        names = [f"{part}.{row:05}" for part in _PARTS for row in range(len(self))]
        try:
            with foreign_errors(self.path):
                found = _SHARDS.digest(self._note, ((name, self._file.get_tensor(name)) for name in names))
        except CheckpointError as error:
            raise TrainingError(_damaged(self.path, f"it cannot be read ({error})")) from error
        if found != self.sha256:
            raise TrainingError(_damaged(self.path, "its content is not what was written"))

    def photo(self, row: int) -> TaughtPhoto:
        """One of the photos."""
        try:
            with foreign_errors(self.path):
                parts = {part: self._file.get_tensor(f"{part}.{row:05}").numpy() for part in _PARTS}
        except CheckpointError as error:
            raise TrainingError(_damaged(self.path, f"it cannot be read ({error})")) from error
        return TaughtPhoto(self.names[row], self.clips[row], self.fingerprints[row], **parts)


def shard_path(folder: Path, number: int) -> Path:
    """Where a shard lies."""
    return folder / f"taught-{number:05}.safetensors"


def _damaged(path: Path, what: str) -> str:
    return (
        f"the teacher's depth {str(path)!r} is damaged: {what}. Remove that file and give the same command again: it "
        "alone is made again. If this happens twice, check the disk"
    )
